"""What grounding costs: a report with everything that its findings rest on, against the same without.

Phantoms from DICOM files to drafts, with the demo checkpoint and an index of REFERENCES cases. "Without" has images,
similar cases, prompt and generation: no search for the same images, no scores in the image, no log-probabilities by
word, no findings, verdicts and checks. Times are CPU seconds of the process, which other work on the machine hardly
changes; the two take turns on each study, and the ratio is that of the medians.

    python -m tests.benchmarks.bench_grounding
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from rich.console import Console
from rich.table import Table

from db.reports.versions import Draft
from db.settings import Settings
from deploy.demo.demo import CHECKPOINT
from worker.evaluation.evaluate import pipeline_with
from worker.images.study import StoredInstance
from worker.model.resident_model import ResidentModel
from worker.phantoms.cases import draw_case
from worker.phantoms.datasets import write_reference_cases
from worker.phantoms.dicom_files import form_of, write_study
from worker.phantoms.phantoms import TRAINING
from worker.pipeline.part import sections_of
from worker.pipeline.pipeline import Pipeline, StudyToReport
from worker.prompting.report_text import joined

if TYPE_CHECKING:
    from worker.retrieval.retrieve import Index

REFERENCES, STUDIES = int(os.environ.get("REFERENCES", "90")), int(os.environ.get("STUDIES", "24"))
SEED = 7_700_000


class _BareIndex:
    """The index without what only findings need."""

    def __init__(self, index: Any) -> None:
        self._index = index

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def label_scores(self, *_: Any, **__: Any) -> None:
        """Return no scores."""

    def same_images(self, *_: Any, **__: Any) -> set[Any]:
        """Find no image again."""
        return set()


class _BareModel:
    """The model without the places of its tokens in the text."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def token_ends(self, _: Any) -> list[int]:
        """Return no places."""
        return []


class _BarePipeline(Pipeline):
    """The pipeline without findings, verdicts and checks."""

    def _draft(self, run: Any) -> Draft:
        sections = sections_of([part.images.name for part in run.parts], [part.text or "" for part in run.parts])
        return Draft(*joined(sections), "", self.model.prompt_version, self.model.digest, {}, images=run.shown)


def bare(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline without grounding."""
    model, index = cast("Any", _BareModel(pipeline.model)), cast("Index", _BareIndex(pipeline.index))
    plain = replace(pipeline, model=model, index=index)
    return _BarePipeline(plain.model, plain.index, plain.read_reports, plain.settings)


def studies(folder: Path) -> list[tuple[str, StudyToReport]]:
    """Write chests, and a head after each third one; return them with their image type."""
    rng, written = np.random.default_rng(SEED), []
    for number in range(STUDIES):
        image = "chest" if number % 4 else "ct"
        case = draw_case(rng, image)
        files = write_study(case, folder / str(number), patient=9_000_000 + number, variation=TRAINING, small=True)
        instances, form = [StoredInstance(path, str(path)) for path in files], form_of(case)
        written.append((image, StudyToReport(instances, form.modality, form.body_part)))
    return written


def cpu_seconds(pipeline: Pipeline, study: StudyToReport) -> float:
    """Return the CPU seconds of a report."""
    started = time.process_time()
    pipeline.run(study, lambda: None)
    return time.process_time() - started


def main() -> None:
    """Measure and print."""
    model = ResidentModel.load(CHECKPOINT, device="cpu")
    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_reference_cases(folder / "reference", count=REFERENCES, seed=SEED, variation=TRAINING)
        grounded = pipeline_with(model, Settings(), folder / "reference", folder)
        plain = bare(grounded)
        for image, study in studies(folder):
            # The first of the two reads the files from disk.
            cpu_seconds(plain, study)
            seconds[image].append((cpu_seconds(grounded, study), cpu_seconds(plain, study)))
    model.close()
    medians = {image: np.median(pairs, axis=0) for image, pairs in seconds.items()}
    table = Table("studies", "CPU ms, grounded", "without", "ratio")
    for image, (ours, theirs) in medians.items():
        table.add_row(image, f"{ours * 1000:.0f}", f"{theirs * 1000:.0f}", f"{ours / theirs:.2f}")
    Console().print(table)
    figures = {f"{image}_vs_ungrounded": round(float(ours / theirs), 3) for image, (ours, theirs) in medians.items()}
    print(json.dumps(figures))  # noqa: T201 - for `make record-grounding`


if __name__ == "__main__":
    main()
