"""`prelim evaluate --task question|diagnosis`: compare a checkpoint's answers with the known ones of cases."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import track

from db.answers.answer import NONE_OF_THESE, Question
from db.errors import NotReportable, PermanentFailure, TransientFailure
from worker.evaluation.answers.answer_figures import Answered, AnswerFigures, Arbitration, figures_of
from worker.evaluation.answers.asked_cases import read_inquiries, write_phantom_inquiries
from worker.evaluation.evaluate import FIGURES, loaded_pipeline, make_folder
from worker.images.study import StoredInstance
from worker.phantoms.datasets import REFERENCE_CASES, write_reference_cases
from worker.phantoms.phantoms import TRAINING
from worker.pipeline.answering import answer
from worker.pipeline.diagnosing import diagnose
from worker.pipeline.pipeline import StudyToReport
from worker.prompting.diagnosis import Guidance
from worker.retrieval.case_files import files_of, owner_of, read_cases

if TYPE_CHECKING:
    from collections.abc import Iterable

    from db.answers.answer import Choice, Diagnosis
    from db.settings import Settings
    from db.states import JobKind
    from worker.evaluation.answers.asked_cases import AskedCase
    from worker.pipeline.pipeline import Pipeline
    from worker.retrieval.case_files import Case

#: Labels of similar cases in the test of arbitration.
LABELS = 3
FAILURES = (NotReportable, TransientFailure, PermanentFailure)


def evaluate_answers(
    cases: Path,
    checkpoint: Path,
    settings: Settings,
    task: JobKind,
    *,
    reference: Path | None = None,
    out: Path | None = None,
) -> AnswerFigures:
    """Measure *checkpoint* on the inquiries of the folder *cases*; write the figures into *out*.

    Similar cases are retrieved from the folder *reference*, if it is given. Raises ConfigurationError if a folder or
    the checkpoint cannot be used.
    """
    inquiries = read_inquiries(cases, task)
    if out:
        make_folder(out)
    with loaded_pipeline(checkpoint, settings, reference) as pipeline:
        answered, failed = measure(pipeline, cases, track(inquiries, "inquiries"))
    figures = figures_of(answered, failed)
    if out:
        document = figures.as_json() | {
            "task": task,
            "checkpoint": pipeline.model.digest,
            "retrieval": reference is not None,
        }
        (out / FIGURES).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return figures


def evaluate_phantom_answers(
    count: int,
    checkpoint: Path,
    settings: Settings,
    task: JobKind,
    *,
    seed: int,
    retrieval: bool,
    out: Path | None = None,
    references: int = REFERENCE_CASES,
) -> AnswerFigures:
    """Measure *checkpoint* on inquiries about *count* phantoms, with or without similar cases."""
    with tempfile.TemporaryDirectory() as folder:
        cases, earlier = Path(folder) / "cases", Path(folder) / "reference"
        write_phantom_inquiries(cases, count=count, seed=seed)
        if retrieval:
            write_reference_cases(earlier, count=references, seed=seed, variation=TRAINING)
        reference = earlier if retrieval else None
        return evaluate_answers(cases, checkpoint, settings, task, reference=reference, out=out)


def measure(
    pipeline: Pipeline, folder: Path, inquiries: Iterable[AskedCase], *, arbitrate: bool = True
) -> tuple[list[Answered], list[str]]:
    """Return the answers to *inquiries* about the cases of a folder, and why others have none.

    *arbitrate*: also with no labels, all wrong and all right ones.
    """
    cases = {case.case_id: case for case in read_cases(folder)}
    answered, failed = [], []
    for inquiry in inquiries:
        if inquiry.case_id not in cases:
            failed.append(f"{inquiry.case_id}: not in cases.jsonl")
            continue
        try:
            study = _study(folder, cases[inquiry.case_id])
            answered.append(_answered(pipeline, study, inquiry, arbitrate=arbitrate))
        except FAILURES as error:
            failed.append(f"{inquiry.case_id}: {error.reason}")
    return answered, failed


def _study(folder: Path, case: Case) -> StudyToReport:
    instances = [StoredInstance(*file) for file in files_of(folder, case)]
    patient, own_study = owner_of(folder, case)
    return StudyToReport(instances, case.modality, case.body_part, frozenset({patient}), own_study)


def _answered(pipeline: Pipeline, study: StudyToReport, inquiry: AskedCase, *, arbitrate: bool) -> Answered:
    asked = inquiry.asked
    if isinstance(asked, Question):
        # No lease to extend, here and below.
        return Answered(inquiry, answer(pipeline, study, asked, lambda: None))
    own = diagnose(pipeline, study, asked, lambda: None, given=inquiry.guidance)
    wrong = [option for option in inquiry.options if option not in inquiry.right]
    if NONE_OF_THESE in inquiry.right or not (wrong and arbitrate):
        return Answered(inquiry, own)
    none, confused, guided = (_with(pipeline, study, asked, labels) for labels in ([], wrong[:1], inquiry.right[:1]))
    return Answered(inquiry, own, Arbitration(none, confused, guided))


def _with(pipeline: Pipeline, study: StudyToReport, asked: Choice, labels: list[str]) -> Diagnosis:
    """Return the choice with the same diagnosis for all similar cases and a specialist; without any for no *labels*."""
    return diagnose(pipeline, study, asked, lambda: None, given=Guidance(labels * LABELS, labels))
