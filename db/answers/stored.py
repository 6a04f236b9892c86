"""Insert and read the answers to inquiries with their evidence."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from db.answers import predictions, scalings
from db.answers.answer import (
    Answer,
    Diagnosis,
    NeighbourCase,
    OptionScore,
    Prediction,
    Result,
    ShownImage,
    Stored,
)
from db.models import Answer as Row
from db.models import AnswerEvidence, Inquiry, Job, ReferenceCase, Study
from db.reports.grounds import CitedSentence, GroundedFinding, InImage
from db.reports.storable import clean
from db.states import Calibration, JobKind, Verdict

if TYPE_CHECKING:
    import uuid

    from sqlalchemy.orm import Session

#: Fields with columns of the same name and value.
_SAME = [
    field.name
    for field in fields(Result)
    if field.name not in ("calibration", "findings", "evidence", "images", "predictions")
]


def insert(session: Session, job_id: uuid.UUID, *, revision: int, fence: int, result: Answer | Diagnosis) -> None:
    """Insert the answer to the inquiry of a job that has been ended in this transaction.

    Raises PermanentFailure if it holds a number that is not finite.
    """
    result = _without_erased(session, clean(result, "answer"))
    columns: dict[str, Any] = {name: getattr(result, name) for name in _SAME}
    columns["findings"] = [_without_citations(finding) for finding in result.findings]
    columns["images"] = [asdict(image) for image in result.images]
    columns["predictions"] = [asdict(prediction) for prediction in result.predictions]
    columns["options"], columns["none_of_these"] = None, None
    if isinstance(result, Diagnosis) and result.options:
        columns["options"] = [asdict(option) for option in result.options]
        columns["none_of_these"] = result.none_of_these
    session.add(Row(job_id=job_id, revision=revision, fence=fence, calibration=result.calibration, **columns))
    session.flush()
    cited = _citations(result)
    for rank, case in enumerate(result.evidence, start=1):
        session.add(AnswerEvidence(job_id=job_id, rank=rank, cited=cited[rank], **asdict(case)))
    session.flush()


def _without_citations(finding: GroundedFinding) -> dict[str, Any]:
    columns = asdict(finding)
    del columns["cited"]
    return columns


def _citations(result: Result) -> dict[int, list[dict[str, Any]]]:
    """Return the cited sentences by the rank of their case, each with the number of its finding, from 1."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for number, finding in enumerate(result.findings, start=1):
        for one in finding.cited:
            found[one.rank].append({"finding": number, "stance": one.stance, "sentence": one.sentence})
    return found


def _without_erased(session: Session, result: Answer | Diagnosis) -> Answer | Diagnosis:
    """Return the result without the words of the cases that were erased while it was made.

    The others stay until the transaction ends; a trigger empties their words if they are erased after it.
    """
    wanted = {case.case_id for case in result.evidence}
    if not wanted:
        return result
    kept = select(ReferenceCase.id).where(ReferenceCase.id.in_(wanted)).order_by(ReferenceCase.id)
    gone = wanted - set(session.scalars(kept.with_for_update(read=True, key_share=True)))
    evidence = [
        NeighbourCase(None, case.similarity, "", warnings=case.warnings) if case.case_id in gone else case
        for case in result.evidence
    ]
    erased = {rank for rank, case in enumerate(evidence, start=1) if case.case_id is None}
    findings = [
        replace(finding, cited=[one for one in finding.cited if one.rank not in erased]) for finding in result.findings
    ]
    return replace(result, evidence=evidence, findings=findings)


def read(session: Session, job_id: uuid.UUID) -> Stored | None:
    """Return the answer to the inquiry of a job; None if it has none yet."""
    query = (
        select(Row, Study, Inquiry.kind, Job.claimed_at)
        .join(Inquiry, Inquiry.job_id == Row.job_id)
        .join(Job, Job.id == Row.job_id)
        .join(Study, Study.id == Inquiry.study_id)
        .where(Row.job_id == job_id)
    )
    found = session.execute(query).one_or_none()
    if found is None:
        return None
    row, study, kind, claimed_at = found
    newer = study.revision if study.revision > row.revision else None
    late = predictions.arrived_after(session, study, claimed_at) if kind == JobKind.DIAGNOSIS else 0
    return Stored(_result(session, row, kind), row.revision, newer, row.created_at, *_standing(session, row), late)


def _standing(session: Session, row: Row) -> tuple[Calibration, str]:
    """Return the standing of the confidence of an answer and its reason: as written, unless suspended since."""
    figures = row.provenance.get("calibration") or {}
    # Of a question by part of the study, of a diagnosis those of its kind.
    of_each = [figures] if "status" in figures else list(figures.values())
    suspended = scalings.suspension(session, [one["id"] for one in of_each if one.get("id")])
    if suspended is not None:
        return Calibration.SUSPENDED, suspended
    reasons = dict.fromkeys(one["reason"] for one in of_each if one.get("reason"))
    standing = Calibration(row.calibration)
    return standing, "" if standing == Calibration.CERTIFIED else "; ".join(reasons)


def _result(session: Session, row: Row, kind: str) -> Answer | Diagnosis:
    lines = session.scalars(
        select(AnswerEvidence).where(AnswerEvidence.job_id == row.job_id).order_by(AnswerEvidence.rank)
    ).all()
    cited: dict[int, list[CitedSentence]] = defaultdict(list)
    for line in lines:
        for one in line.cited:
            cited[one["finding"]].append(CitedSentence(line.rank, one["stance"], one["sentence"]))
    parts: dict[str, Any] = {name: getattr(row, name) for name in _SAME} | {
        "calibration": Calibration(row.calibration),
        "findings": [_finding(values, cited[number]) for number, values in enumerate(row.findings, start=1)],
        "evidence": [_case(line) for line in lines],
        "images": [ShownImage(**values) for values in row.images],
        "predictions": [Prediction(**values) for values in row.predictions],
    }
    if kind == JobKind.QUESTION:
        return Answer(**parts)
    options = [OptionScore(**values) for values in row.options or []]
    # Earlier rows without options have 0, which nobody measured.
    return Diagnosis(**parts, options=options, none_of_these=row.none_of_these if options else None)


def _finding(values: dict[str, Any], cited: list[CitedSentence]) -> GroundedFinding:
    in_image = None if values["in_image"] is None else InImage(**values["in_image"])
    verdict = Verdict(values["verdict"])
    return GroundedFinding(**(values | {"in_image": in_image, "verdict": verdict, "cited": cited}))


def _case(line: AnswerEvidence) -> NeighbourCase:
    return NeighbourCase(**{field.name: getattr(line, field.name) for field in fields(NeighbourCase)})
