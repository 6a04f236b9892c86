"""`prelim evaluate`: compare a checkpoint's reports with the reference reports of a folder of cases.

A worker's pipeline from DICOM files to drafts, without its databases. Downloads nothing and stores only the figures.
"""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import track

from db.errors import ConfigurationError, NotReportable, PermanentFailure, TransientFailure
from worker.evaluation.calibrate import common_findings
from worker.evaluation.controls.reported_again import Controls
from worker.evaluation.plot import plot
from worker.evaluation.scoring import Measured, Result, Written
from worker.evaluation.scoring import evaluate as run
from worker.findings.labeller import finding_names
from worker.images.study import StoredInstance
from worker.pipeline.pipeline import Pipeline, StudyToReport
from worker.reference_build.importing import case_encoder
from worker.retrieval.build import EncodedCase, Steps, build
from worker.retrieval.case_files import Case, Owner, files_of, owner_of, read_cases
from worker.retrieval.index import ReferenceIndex

if TYPE_CHECKING:
    from collections.abc import Iterator

    from db.settings import Settings
    from worker.model.resident_model import ResidentModel

#: Namespace of the ids that reference cases get for a run.
_CASES = uuid.UUID("5e1c6f0e-7f0b-4b53-9d5d-8a6f5f6f0c11")
#: Files of the figures and their plot in the output folder.
FIGURES, PLOT = "evaluation.json", "evaluation.png"


def evaluate(
    cases: Path,
    checkpoint: Path,
    settings: Settings,
    *,
    reference: Path | None = None,
    controls: bool = False,
    out: Path | None = None,
) -> Result:
    """Measure *checkpoint* on the folder *cases*, with a worker's *settings*; write figures and plot into *out*.

    Similar cases are retrieved from the folder *reference*, if it is given. With *controls* each study is reported
    several times more (worker.evaluation.controls).

    Raises ConfigurationError if a folder or the checkpoint cannot be used.
    """
    # Invalid folders are rejected before hours of work.
    listed = [Measured(case, case.report, case.modality or "?") for case in read_cases(cases)]
    if out:
        make_folder(out)
    with loaded_pipeline(checkpoint, settings, reference) as pipeline:
        writer = _Writer(cases, pipeline, _controls(reference) if controls else None)
        result = run(track(listed, "cases"), writer, failures=(NotReportable, TransientFailure, PermanentFailure))
        if writer.controls:
            result.controls = writer.controls.figures(pipeline)
    if out:
        document = result.as_json() | {
            "checkpoint": pipeline.model.digest,
            "retrieval": reference is not None,
            "refused": writer.rejected,
            "seconds_per_case": writer.median_seconds,
        }
        (out / FIGURES).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        plot(result, out / PLOT)
    return result


def _controls(reference: Path | None) -> Controls:
    return Controls(common_findings(case.report for case in read_cases(reference)) if reference else ())


def make_folder(out: Path) -> None:
    """Create the output folder; raises ConfigurationError if that is not possible."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the output folder {out} cannot be created: {error.strerror}") from error


@dataclass(slots=True)
class _Writer:
    """Writes the report of a case and keeps the seconds of each."""

    folder: Path
    pipeline: Pipeline
    controls: Controls | None = None
    seconds: list[float] = field(default_factory=list)
    #: Cases whose images were all out of distribution.
    rejected: list[str] = field(default_factory=list)

    def __call__(self, case: Case) -> Written:
        started = time.monotonic()
        instances = [StoredInstance(*file) for file in files_of(self.folder, case)]
        patient, own_study = owner_of(self.folder, case)
        study = StudyToReport(instances, case.modality, case.body_part, frozenset({patient}), own_study)
        # No lease to extend.
        draft = self.pipeline.run(study, lambda: None)
        self.seconds.append(time.monotonic() - started)
        if draft.provenance["refused"]:
            self.rejected.append(case.case_id)
        if self.controls:
            self.controls.add(study, case.report, draft)
        text = f"Findings: {draft.findings} Impression: {draft.impression}"
        return Written(text, [quoted.excerpt for quoted in draft.evidence], draft.grounds)

    @property
    def median_seconds(self) -> float | None:
        """Median of a case's seconds, from its files to its report."""
        return round(float(np.median(self.seconds)), 3) if self.seconds else None


@contextmanager
def loaded_pipeline(checkpoint: Path, settings: Settings, reference: Path | None) -> Iterator[Pipeline]:
    """Load *checkpoint* for the block, with an index of the folder *reference* if it is given.

    Raises ConfigurationError if the folder or the checkpoint cannot be used.
    """
    from worker.model.resident_model import ResidentModel  # noqa: PLC0415 - torch is loaded only where a model is

    model = ResidentModel.load(checkpoint, device=settings.model.device, dtype=settings.model.dtype)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            yield pipeline_with(model, settings, reference, Path(scratch))
    finally:
        model.close()


def pipeline_with(model: ResidentModel, settings: Settings, reference: Path | None, scratch: Path) -> Pipeline:
    """Return the pipeline; its index, if one is wanted, is built in *scratch*."""
    reports: dict[uuid.UUID, str] = {}
    if reference is None:
        return Pipeline(model, None, lambda _: reports, settings)

    def store(case: Case, _encoded: EncodedCase, _owner: Owner) -> uuid.UUID:
        identity = uuid.uuid5(_CASES, case.case_id)
        reports[identity] = case.report
        return identity

    directory = scratch / "index"
    steps = Steps(
        case_encoder(model.patch_tokens, images_per_case=settings.model.images_per_study), finding_names, store
    )
    build(reference, directory, steps, model_digest=model.digest)
    return Pipeline(model, ReferenceIndex(directory, model_digest=model.digest), lambda _: reports, settings)
