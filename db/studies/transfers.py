"""Transfers that broke off: their studies wait longer for the rest, and their reports state the limitation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import exists, func, select, update

from db.models import Instance, Study
from db.states import StudyState

if TYPE_CHECKING:
    import uuid

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

#: Limitation of a report.
LIMITATION = "The transfer from the modality broke off; images may be missing."


def break_off(session: Session, study_instance_uid: str, association_id: str) -> int:
    """Record that an association broke off while it sent a study; return the number of studies that need the rest.

    These are receiving, or held: a held study gets its report after a decision. Repeating it changes nothing.
    """
    noted = session.execute(
        update(Study)
        .where(Study.study_instance_uid == study_instance_uid, Study.state.in_((StudyState.RECEIVING, StudyState.HELD)))
        .where(Study.broken_association_id.is_distinct_from(association_id))
        .values(broken_off_at=func.clock_timestamp(), broken_association_id=association_id)
        .returning(Study.id)
    )
    return len(noted.all())


def resume(session: Session, study: Study, association_id: str) -> None:
    """Note a new instance of a locked study: the transfer goes on, or another association repeats it.

    One that had already sent objects of the study when the transfer broke off sends other parts of it.
    """
    if study.broken_off_at is None:
        return
    parallel = select(
        exists().where(
            Instance.study_id == study.id,
            Instance.association_id == association_id,
            Instance.indexed_at < study.broken_off_at,
        )
    )
    if association_id == study.broken_association_id or not session.scalar(parallel):
        study.broken_off_at = study.broken_association_id = None


def repeat(session: Session, sop_instance_uid: str, association_id: str) -> None:
    """Note an instance that was received again: a sender repeats the objects of a transfer that broke off."""
    broken = select(Study).join(Instance).where(Instance.sop_instance_uid == sop_instance_uid)
    study = session.scalars(broken.where(Study.broken_off_at.is_not(None)).with_for_update(of=Study)).one_or_none()
    if study is not None:
        resume(session, study, association_id)


def is_incomplete() -> ColumnElement[bool]:
    """Condition of a study whose transfer broke off before the announced number of objects, if any, was received."""
    received = select(func.count()).where(Instance.study_id == Study.id).scalar_subquery()
    return Study.broken_off_at.is_not(None) & (Study.announced.is_(None) | (received < Study.announced))


def limitations(session: Session, study_id: uuid.UUID) -> list[str]:
    """Return the limitation of a study whose transfer broke off."""
    broken = session.scalar(select(Study.broken_off_at).where(Study.id == study_id))
    return [] if broken is None else [LIMITATION]
