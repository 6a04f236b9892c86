"""Carry out a person's decision about the identities of a held study, and state it in reports."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import exists, func, select, update
from sqlalchemy.orm import aliased

from db.errors import NotPossible, Reason
from db.models import IdentityDecision, Instance, Job, ReportFeedback, SpecialistPrediction, Study, StudyHold
from db.states import JobKind, JobState, StudyState
from db.studies import imaging_request, revisions
from db.studies.identity import conflicts, identity

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from db.studies.identity.identity import Identity


class Decision(StrEnum):
    """Decision of a person about the identities of a study."""

    #: They are different patients: each gets a report of its own.
    KEEP_APART = "keep_apart"
    #: They are one patient: the demographics of one identity are right for all objects.
    TAKE_OVER = "take_over"
    #: The objects of the later identity are set aside; they get no report.
    REFUSE = "refuse"
    #: An object was replaced by one with other demographics and the same pixels (`prelim quarantine take`).
    CORRECT = "correct"


def decide(session: Session, study: Study, decision: Decision, by: str, *, right: int | None = None) -> Study:
    """Carry out a person's decision and return the study that remains; repeating a decision changes nothing.

    It concerns all held identities, or *study* alone if it is a later one. *right* is the number of the identity whose
    demographics are right for all objects (TAKE_OVER); by default that of the latest. Raises NotPossible.
    """
    if right is not None and decision is not Decision.TAKE_OVER:
        raise NotPossible("only take-over chooses the right demographics: decide without a number")
    every = conflicts.locked(session, study.study_instance_uid)
    if not every:
        raise NotPossible("the study was deleted in the meantime")
    first, named = every[0], next((row for row in every if row.id == study.id), None)
    targets = _targets(every, named, decision)
    if not targets:
        concerned = every if named is first else [named or first]
        if right is None and decision in _latest_decisions(session, concerned):
            return named or first
        raise NotPossible(f"the study is {(named or first).state}: only a held study needs a decision")
    if decision is Decision.TAKE_OVER:
        _take_over(session, first, targets, right, by)
    for target in targets:
        if decision is Decision.KEEP_APART:
            _record(session, target, decision, by)
            _release(session, target)
        elif decision is Decision.REFUSE:
            _record(session, target, decision, by)
            _refuse(target, by)
    if first.state == StudyState.HELD and all(row in targets or row.state != StudyState.HELD for row in every[1:]):
        _release(session, first)
    session.flush()
    return named if named is not None and decision is not Decision.TAKE_OVER else first


def _targets(every: Sequence[Study], named: Study | None, decision: Decision) -> list[Study]:
    if named is None:  # taken over in the meantime
        return []
    if named.identity_number == 1:
        return [row for row in every[1:] if row.state == StudyState.HELD]
    again = decision is Decision.KEEP_APART and named.reason == Reason.IDENTITY_REFUSED
    return [named] if named.state == StudyState.HELD or again else []


def _latest_decisions(session: Session, every: Sequence[Study]) -> set[str]:
    latest = (
        select(IdentityDecision.decision)
        .where(IdentityDecision.study_id.in_([row.id for row in every]))
        .order_by(IdentityDecision.decided_at.desc())
        .limit(1)
    )
    return set(session.scalars(latest))


def _record(session: Session, study: Study, decision: Decision, by: str, former: Identity | None = None) -> None:
    values = {} if former is None else former._asdict()
    session.add(
        IdentityDecision(
            study_id=study.id, decision=decision, differs=study.differs or [], former=values, decided_by=by
        )
    )


def _take_over(session: Session, first: Study, targets: Sequence[Study], right: int | None, by: str) -> None:
    numbers = {1: first} | {target.identity_number: target for target in targets}
    chosen = numbers.get(targets[-1].identity_number if right is None else right)
    if chosen is None:
        raise NotPossible(f"no held identity has number {right}: expected {', '.join(map(str, numbers))}")
    before, after = identity.of(first), identity.of(chosen)
    for target in targets:
        if target is not chosen:
            _record(session, first, Decision.TAKE_OVER, by, identity.of(target))
    if chosen is not first:
        _record(session, first, Decision.TAKE_OVER, by, before)
    revisions.renew(session, first)
    for target in targets:
        session.execute(
            update(Instance).where(Instance.study_id == target.id).values(study_id=first.id, revision=first.revision)
        )
        _absorb(first, target)
        _move_acts(session, first, target, by)
        session.delete(target)
    conflicts.set_identity(first, identity.corrected(after, before))


def _absorb(first: Study, other: Study) -> None:
    first.priority = max(first.priority, other.priority)
    first.announced = max(first.announced or 0, other.announced or 0) or None
    first.not_read = sorted({*first.not_read, *other.not_read})
    for name in ("modality", "body_part", "study_description"):
        setattr(first, name, getattr(first, name) or getattr(other, name))
    for name in ("indication", "requested_procedure"):
        setattr(first, name, imaging_request.merged(getattr(first, name), getattr(other, name) or ""))


def _move_acts(session: Session, first: Study, other: Study, by: str) -> None:
    """Give the first identity what people and other systems said about another one, which is deleted."""
    held = select(StudyHold.id).where(StudyHold.study_id == first.id, StudyHold.released_at.is_(None))
    if session.scalar(held) is not None:  # which holds the other objects, too
        second = StudyHold.study_id == other.id, StudyHold.released_at.is_(None)
        session.execute(update(StudyHold).where(*second).values(released_by=by, released_at=func.clock_timestamp()))
    for table in (StudyHold, ReportFeedback):
        session.execute(update(table).where(table.study_id == other.id).values(study_id=first.id))
    # A trigger refuses to change them: new rows.
    names = ("study", "name", "version", "label", "score", "draft", "source", "received_at")
    rows = select(SpecialistPrediction).where(SpecialistPrediction.study_id == other.id)
    for row in session.scalars(rows.order_by(SpecialistPrediction.id)).all():
        session.add(SpecialistPrediction(study_id=first.id, **{name: getattr(row, name) for name in names}))


def _refuse(study: Study, by: str) -> None:
    study.state, study.reason, study.differs = StudyState.CANCELLED, Reason.IDENTITY_REFUSED, None
    study.detail = study.settle_reason = f"set aside by {by}: these objects are in no report"
    study.settled_at = func.clock_timestamp()


def _release(session: Session, study: Study) -> None:
    """Continue a held study: with the end of its revision's job, or settling if it has had none."""
    report = Job.study_id == study.id, Job.revision == study.revision, Job.kind == JobKind.REPORT
    job = session.scalars(select(Job).where(*report)).one_or_none()
    study.reason = study.detail = study.differs = None
    if job is None:
        study.state, study.settle_reason, study.settled_at = StudyState.RECEIVING, None, None
        study.last_received_at = study.revision_started_at = func.clock_timestamp()
    elif job.state == JobState.FINISHED:
        study.state = StudyState.REPORTED
    else:
        study.state, study.reason, study.detail = StudyState(job.state), job.reason, job.detail


def sentences(session: Session, study_id: uuid.UUID) -> list[str]:
    """Return the sentences of a report about the identity of its study: corrections, unidentified images."""
    return [*_corrections(session, study_id), *_unidentified(session, study_id)]


def _corrections(session: Session, study_id: uuid.UUID) -> list[str]:
    rows = session.execute(
        select(IdentityDecision.decision, IdentityDecision.differs).where(
            IdentityDecision.study_id == study_id,
            IdentityDecision.decision.in_((Decision.TAKE_OVER, Decision.CORRECT)),
        )
    ).all()
    fields = {name for row in rows for name in row.differs}
    names = identity.labels([name for name in identity.LABELS if name in fields])
    taken_over = any(row.decision == Decision.TAKE_OVER for row in rows)
    return [f"Demographics corrected by an operator: {names or 'missing values'}."] if names or taken_over else []


def former_patient_ids(session: Session, study_id: uuid.UUID) -> set[str]:
    """Return the Patient IDs of a study that a person corrected: its own cases may be under one of them."""
    rows = session.scalars(select(IdentityDecision.former).where(IdentityDecision.study_id == study_id))
    return {former["patient_id"] for former in rows if former}


def _unidentified(session: Session, study_id: uuid.UUID) -> list[str]:
    """Return a sentence if images without demographics may be of another patient under the same Study Instance UID."""
    other = aliased(Study)
    several = exists().where(other.study_instance_uid == Study.study_instance_uid, other.id != Study.id)
    count = session.scalar(
        select(func.count())
        .select_from(Instance)
        .join(Study, Study.id == Instance.study_id)
        .where(Study.id == study_id, Instance.reportable, ~Instance.identified, several)
    )
    if not count:
        return []
    images = "1 image has" if count == 1 else f"{count} images have"
    return [f"{images} no patient data and may be of another patient who was sent under the same Study Instance UID."]


def siblings(session: Session, study: Study) -> Sequence[Study]:
    """Return the other studies of the same Study Instance UID, by number."""
    return session.scalars(
        select(Study)
        .where(Study.study_instance_uid == study.study_instance_uid, Study.id != study.id)
        .order_by(Study.identity_number)
    ).all()


def decided(session: Session, study_ids: Sequence[uuid.UUID]) -> Sequence[IdentityDecision]:
    """Return the decisions about these studies, the oldest first."""
    return session.scalars(
        select(IdentityDecision)
        .where(IdentityDecision.study_id.in_(list(study_ids)))
        .order_by(IdentityDecision.decided_at)
    ).all()
