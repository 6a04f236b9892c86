"""Different identities under one Study Instance UID: separate them, hold the study, carry out a person's decision.

The objects of each identity are a study of their own from their first object on, so that no report can mix them. They
are held until a person decides. All studies of one Study Instance UID are locked in the order of their numbers.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased

from db.errors import NotPossible, Reason
from db.models import IdentityDecision, Instance, Job, Study
from db.states import JobState, StudyState
from db.studies import identity, revisions
from db.studies.identity import Identity

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    from db.studies.lifecycle import ReceivedInstance


#: Sentence with the report of a held study.
HELD = "The study is held: objects with other demographics or of another request arrived after this report was written."


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


def locked_study(session: Session, received: ReceivedInstance) -> Study:
    """Return the study of a received object, locked, with the object's values where its own were empty.

    An object that fits no identity of its Study Instance UID holds the study and begins another one.
    """
    study = _first(session, received)
    given = identity.of(received.study)
    if identity.of(study) != given:
        every = [study, *_others(session, study)]
        fitting = _fitting(session, every, received)
        if fitting is None:
            return study if _is_indexed(session, received) else _hold(session, every, received)
        study = fitting
        _complete(study, given)
    study.study_description = study.study_description or received.study.study_description
    return study


def _first(session: Session, received: ReceivedInstance) -> Study:
    session.execute(
        insert(Study)
        .values(**_attributes(received), identity_number=1)
        .on_conflict_do_nothing(index_elements=["study_instance_uid", "identity_number"])
    )
    # The lock serialises late images, settling and finishing of one study.
    return session.scalars(_studies(received.study.study_instance_uid).where(Study.identity_number == 1)).one()


def _is_indexed(session: Session, received: ReceivedInstance) -> bool:
    """Return whether another dispatcher has inserted the object while this one waited for the lock."""
    return bool(session.scalar(select(exists().where(Instance.sop_instance_uid == received.sop_instance_uid))))


def _others(session: Session, first: Study) -> Sequence[Study]:
    return session.scalars(_studies(first.study_instance_uid).where(Study.identity_number > 1)).all()


def locked(session: Session, study_instance_uid: str) -> Sequence[Study]:
    """Return the studies of a Study Instance UID, locked, by number."""
    return session.scalars(_studies(study_instance_uid)).all()


def _studies(study_instance_uid: str) -> Select[Study]:
    return (
        select(Study)
        .where(Study.study_instance_uid == study_instance_uid)
        .order_by(Study.identity_number)
        .with_for_update()
        .execution_options(populate_existing=True)
    )


def _attributes(received: ReceivedInstance) -> dict[str, object]:
    names = type(received.study).__dataclass_fields__
    attributes = {name: getattr(received.study, name) for name in names}
    return attributes | {"calling_ae_title": received.calling_ae_title}


def _fitting(session: Session, studies: Sequence[Study], received: ReceivedInstance) -> Study | None:
    """Return the study that an object belongs to; None if it fits none, or several and no series of one."""
    given = identity.of(received.study)
    fitting = [study for study in studies if not identity.differences(identity.of(study), given)]
    if not fitting:
        fitting = _decided(session, studies, given)
    if len(fitting) > 1:
        ids = [study.id for study in fitting]
        same_series = Instance.series_instance_uid == received.series_instance_uid
        found = set(
            session.scalars(select(Instance.study_id).where(Instance.study_id.in_(ids), same_series).distinct())
        )
        fitting = [study for study in fitting if study.id in found]
    return fitting[0] if len(fitting) == 1 else None


def _decided(session: Session, studies: Sequence[Study], given: Identity) -> list[Study]:
    """Return the studies of which a person decided that objects of this identity belong to them."""
    by_id = {study.id: study for study in studies}
    rows = session.scalars(select(IdentityDecision).where(IdentityDecision.study_id.in_(list(by_id))))
    found = {row.study_id for row in rows if row.former and not identity.differences(Identity(**row.former), given)}
    return [study for study in studies if study.id in found]


def _complete(study: Study, given: Identity) -> None:
    """Fill the empty values of a study from an identity that fits; one that a person corrected stays as it is."""
    ours = identity.of(study)
    if not identity.differences(ours, given):
        set_identity(study, identity.completed(ours, given))


def set_identity(study: Study, values: Identity) -> None:
    """Give a locked study these values."""
    for name, value in values._asdict().items():
        if getattr(study, name) != value:
            setattr(study, name, value)


def _hold(session: Session, studies: Sequence[Study], received: ReceivedInstance) -> Study:
    """Hold the first study of a Study Instance UID, and begin a held one for the received object."""
    first = studies[0]
    differs = identity.differences(identity.of(first), identity.of(received.study))
    kind = f"with a different {identity.labels(differs)}" if differs else "that fit several patients"
    detail = f"objects {kind} arrived under this Study Instance UID; a person must decide"
    held = {"state": StudyState.HELD, "reason": Reason.IDENTITY_CONFLICT, "detail": detail}
    study = Study(
        **_attributes(received), identity_number=studies[-1].identity_number + 1, revision=1, differs=differs, **held
    )
    session.add(study)
    if first.state == StudyState.SETTLED:
        revisions.supersede(session, first.id, Reason.IDENTITY_CONFLICT, detail)
        revisions.renew(session, first)
    first.differs = [name for name in identity.LABELS if name in {*differs, *(first.differs or ())}]
    for name, value in held.items():
        setattr(first, name, value)
    session.flush()
    return study


def decide(session: Session, study: Study, decision: Decision, by: str, *, right: int | None = None) -> Study:
    """Carry out a person's decision and return the study that remains; repeating a decision changes nothing.

    It concerns all held identities, or *study* alone if it is a later one. *right* is the number of the identity whose
    demographics are right for all objects (TAKE_OVER); by default that of the latest. Raises NotPossible.
    """
    every = locked(session, study.study_instance_uid)
    first, named = every[0], next((row for row in every if row.id == study.id), None)
    targets = _targets(every, named, decision)
    if not targets:
        if decision in _latest_decisions(session, every):
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
    return first if decision is Decision.TAKE_OVER or named is None else named


def _targets(every: Sequence[Study], named: Study | None, decision: Decision) -> list[Study]:
    if named is None or named.identity_number == 1:
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
        session.delete(target)
    # Values that the chosen identity lacks; never a group of a wrong name.
    set_identity(first, identity.completed(after, before._replace(patient_name="")))


def _absorb(first: Study, other: Study) -> None:
    first.priority = max(first.priority, other.priority)
    first.announced = max(first.announced or 0, other.announced or 0) or None
    for name in ("modality", "body_part", "study_description"):
        setattr(first, name, getattr(first, name) or getattr(other, name))


def _refuse(study: Study, by: str) -> None:
    study.state, study.reason, study.differs = StudyState.CANCELLED, Reason.IDENTITY_REFUSED, None
    study.detail = study.settle_reason = f"set aside by {by}: these objects are in no report"


def _release(session: Session, study: Study) -> None:
    """Continue a held study: with the end of its revision's job, or settling if it has had none."""
    job = session.scalars(select(Job).where(Job.study_id == study.id, Job.revision == study.revision)).one_or_none()
    study.reason = study.detail = study.differs = None
    if job is None:
        study.state, study.settle_reason = StudyState.RECEIVING, None
        study.last_received_at = study.revision_started_at = func.clock_timestamp()
    elif job.state == JobState.FINISHED:
        study.state = StudyState.REPORTED
    else:
        study.state, study.reason, study.detail = StudyState(job.state), job.reason, job.detail


def sentences(session: Session, study_id: uuid.UUID) -> list[str]:
    """Return the sentences of a report about the identity of its study: what a person corrected, what is uncertain."""
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


def decisions(session: Session, study_ids: Sequence[uuid.UUID]) -> Sequence[IdentityDecision]:
    """Return the decisions about these studies, the oldest first."""
    return session.scalars(
        select(IdentityDecision)
        .where(IdentityDecision.study_id.in_(list(study_ids)))
        .order_by(IdentityDecision.decided_at)
    ).all()
