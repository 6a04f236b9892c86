"""Different identities under one Study Instance UID: separate them and hold the study.

The objects of each identity are a study of their own from their first object on, so that no report can mix them. They
are held until a person decides (`decisions`). All studies of one Study Instance UID are locked in the order of
their numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import exists, select
from sqlalchemy.dialects.postgresql import insert

from db.errors import Reason
from db.models import IdentityDecision, Instance, Study
from db.models.base import any_of
from db.states import StudyState
from db.studies import imaging_request, revisions
from db.studies.identity import identity
from db.studies.identity.identity import Identity

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import Session

    from db.studies.lifecycle import ReceivedInstance


#: Sentence with the report of a held study.
HELD = "The study is held: objects with other demographics or of another request arrived after this report was written."

BEGIN = insert(Study).on_conflict_do_nothing(index_elements=["study_instance_uid", "identity_number"])


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
    _describe(study, [received])
    return study


def locked_studies(
    session: Session, new: Sequence[ReceivedInstance], study_instance_uids: Collection[str]
) -> dict[str, list[Study]]:
    """Return the studies of these UIDs, locked, by UID and number; begin those of *new* objects that are missing.

    All transactions take the locks in one order: first rows to be inserted, then existing ones, each by UID.
    """
    firsts = {received.study.study_instance_uid: received for received in reversed(new)}
    known = set(session.scalars(select(Study.study_instance_uid).where(_is_one_of(firsts))))
    begun = [_attributes(firsts[uid]) | {"identity_number": 1} for uid in sorted(firsts.keys() - known)]
    if begun:
        session.execute(BEGIN, begun)
    order = Study.study_instance_uid, Study.identity_number
    locked = select(Study).where(_is_one_of(study_instance_uids)).order_by(*order).with_for_update()
    studies: dict[str, list[Study]] = {}
    for study in session.scalars(locked.execution_options(populate_existing=True)):
        studies.setdefault(study.study_instance_uid, []).append(study)
    return studies


def _is_one_of(study_instance_uids: Collection[str]) -> ColumnElement[bool]:
    return Study.study_instance_uid == any_of(study_instance_uids)


def complete(study: Study, every: Sequence[ReceivedInstance]) -> bool:
    """Give a locked study, the only one of its UID, the values of received objects where its own are empty.

    False, and nothing is changed, if the identity of one of them differs.
    """
    known = identity.of(study)
    for received in every:
        given = identity.of(received.study)
        if given != known:
            if identity.differences(known, given):
                return False
            known = identity.completed(known, given)
    set_identity(study, known)
    _describe(study, every)
    return True


def _describe(study: Study, every: Sequence[ReceivedInstance]) -> None:
    """Give a locked study the first description of its objects, and what all of them state about the request."""
    descriptions = (study.study_description, *(received.study.study_description for received in every))
    study.study_description = next(filter(None, descriptions), "")
    not_read = sorted({*study.not_read, *(name for received in every for name in received.study.not_read)})
    if not_read != study.not_read:
        study.not_read = not_read
    study.indication = imaging_request.merged(study.indication, *(one.study.indication for one in every))
    procedures = (one.study.requested_procedure for one in every)
    study.requested_procedure = imaging_request.merged(study.requested_procedure, *procedures)


def _first(session: Session, received: ReceivedInstance) -> Study:
    session.execute(BEGIN, _attributes(received) | {"identity_number": 1})
    # The lock serialises late images, settling and finishing of one study.
    return session.scalars(_studies(received.study.study_instance_uid).where(Study.identity_number == 1)).one()


def _is_indexed(session: Session, received: ReceivedInstance) -> bool:
    """Return whether another dispatcher has inserted the object while this one waited for the lock."""
    return bool(session.scalar(select(exists().where(Instance.sop_instance_uid == received.sop_instance_uid))))


def _others(session: Session, first: Study) -> Sequence[Study]:
    return session.scalars(_studies(first.study_instance_uid).where(Study.identity_number > 1)).all()


def locked(session: Session, study_instance_uid: str) -> Sequence[Study]:
    """Return the studies of a Study Instance UID, locked, by number."""
    # First the lock: a statement that waits for it does not see a study that the holder of the lock inserts.
    session.scalars(_studies(study_instance_uid).where(Study.identity_number == 1)).one_or_none()
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
    return attributes | {"not_read": [*received.study.not_read], "calling_ae_title": received.calling_ae_title}


def _fitting(session: Session, studies: Sequence[Study], received: ReceivedInstance) -> Study | None:
    """Return the study that an object belongs to; None if it fits none, or several and no series of one."""
    given = identity.of(received.study)
    fitting = [study for study in studies if not identity.differences(identity.of(study), given)]
    if not fitting:
        fitting = _decided(session, studies, given)
    if len(fitting) > 1:
        same, by_series = [study for study in fitting if _is_same(study, given)], _of_series(session, fitting, received)
        # A study without demographics, kept apart, fits every object: identified ones go by equal values first.
        best_first = (same, by_series) if identity.is_identified(given) else (by_series, same)
        fitting = next((found for found in best_first if len(found) == 1), [])
    return fitting[0] if fitting else None


def _of_series(session: Session, studies: Sequence[Study], received: ReceivedInstance) -> list[Study]:
    ids = [study.id for study in studies]
    same_series = Instance.series_instance_uid == received.series_instance_uid
    found = set(session.scalars(select(Instance.study_id).where(Instance.study_id.in_(ids), same_series).distinct()))
    return [study for study in studies if study.id in found]


def _is_same(study: Study, given: Identity) -> bool:
    """Return whether an object and a study that fits it have the same values, none of them missing on one side."""
    ours = identity.of(study)
    return not identity.filled(ours, given) and not identity.filled(given, ours)


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
    revisions.supersede(session, first.id, Reason.IDENTITY_CONFLICT, detail, inquiries=True)
    if first.state == StudyState.SETTLED:
        revisions.renew(session, first)
    first.differs = [name for name in identity.LABELS if name in {*differs, *(first.differs or ())}]
    for name, value in held.items():
        setattr(first, name, value)
    session.flush()
    return study
