"""Measure the influence of a specialist's draft (case 0) on reports of phantoms, of which the findings are known.

python -m worker.evaluation.case_0_figures --checkpoint DIR --studies 64
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from db.reports.versions import QuotedDraft
from db.settings import Settings
from worker.evaluation.evaluate import loaded_pipeline
from worker.findings.labeller import present
from worker.images.study import StoredInstance
from worker.phantoms.cases import CATALOGUE
from worker.phantoms.datasets import write_demo_studies
from worker.phantoms.phantoms import TRAINING
from worker.pipeline.pipeline import Pipeline, StudyToReport
from worker.retrieval.case_files import files_of, read_cases

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.phantoms.datasets import DemoStudy

SEED = 7_500_000
#: Drafts by their kind: none, the reference report, that of another study of the same image type.
KINDS = ("none", "right", "wrong")
Strict = set[tuple[str, str, str]]


def measure(pipeline: Pipeline, folder: Path, *, studies: int, seed: int) -> dict[str, Any]:
    """Return, by kind of draft, strict F1 and the share of findings that only a wrong draft states in the report."""
    written = write_demo_studies(folder, count=studies, seed=seed, variation=TRAINING)
    cases = {case.case_id: case for case in read_cases(folder)}
    told: dict[str, list[tuple[Strict, Strict, Strict]]] = {kind: [] for kind in KINDS}
    given = dict.fromkeys(KINDS, 0)
    for number, study in enumerate(written):
        instances = [StoredInstance(*file) for file in files_of(folder, cases[study.case_id])]
        texts = {"none": "", "right": study.report, "wrong": _other(written, number).report}
        for kind, text in texts.items():
            drafts = [QuotedDraft("specialist", "1", "measurement", text)] if text else []
            draft = pipeline.run(StudyToReport(instances, drafts=drafts), lambda: None)
            given[kind] += bool(draft.specialist_draft and draft.specialist_draft.quoted)
            told[kind].append((_strict(f"{draft.findings} {draft.impression}"), _strict(study.report), _strict(text)))
    return {kind: {"given": given[kind]} | _figures(rows) for kind, rows in told.items()}


def _other(written: Sequence[DemoStudy], number: int) -> DemoStudy:
    """Return the next study of the same image type: they are written in turn."""
    return written[(number + len(CATALOGUE)) % len(written)]


def _strict(text: str) -> Strict:
    return {label.strict for label in present(text)}


def _figures(rows: Sequence[tuple[Strict, Strict, Strict]]) -> dict[str, Any]:
    right = sum(len(mine & true) for mine, true, _ in rows)
    stated, true_findings = sum(len(mine) for mine, _, _ in rows), sum(len(true) for _, true, _ in rows)
    only_in_draft = [(mine, draft - true) for mine, true, draft in rows]
    return {
        "strict_f1": round(2 * right / max(stated + true_findings, 1), 4),
        "only_in_draft": sum(len(other) for _, other in only_in_draft),
        "copied": sum(len(mine & other) for mine, other in only_in_draft),
        "studies_as_the_image": sum(mine == true for mine, true, _ in rows),
    }


def main(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint directory.")],
    studies: Annotated[int, typer.Option(min=1, help="Number of phantom studies.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the phantoms.")] = SEED,
) -> None:
    """Measure a checkpoint without reference index and print the figures as JSON."""
    with loaded_pipeline(checkpoint, Settings(), None) as pipeline, tempfile.TemporaryDirectory() as folder:
        figures = measure(pipeline, Path(folder) / "cases", studies=studies, seed=seed)
    print(json.dumps({"studies": studies, "seed": seed} | figures, indent=1))  # noqa: T201 - the command's output


if __name__ == "__main__":
    typer.run(main)
