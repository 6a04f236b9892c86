"""Holds of studies by a person: drafts of a held study cannot be accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from db.errors import NotPossible
from db.models import StudyHold

if TYPE_CHECKING:
    import uuid

    from sqlalchemy.orm import Session


def current(session: Session, study_id: uuid.UUID) -> StudyHold | None:
    """Return the open hold of a study."""
    return session.scalars(
        select(StudyHold).where(StudyHold.study_id == study_id, StudyHold.released_at.is_(None))
    ).one_or_none()


def hold(session: Session, study_id: uuid.UUID, reason: str, by: str) -> StudyHold:
    """Hold a study; raises NotPossible if it is held."""
    row = insert(StudyHold).values(study_id=study_id, reason=reason, held_by=by).on_conflict_do_nothing()
    made = session.scalars(row.returning(StudyHold)).one_or_none()
    if made is None:
        raise NotPossible("the study is held: release it first")
    return made


def release(session: Session, study_id: uuid.UUID, by: str) -> StudyHold:
    """Release a study; raises NotPossible if it is not held."""
    released = session.scalars(
        update(StudyHold)
        .where(StudyHold.study_id == study_id, StudyHold.released_at.is_(None))
        .values(released_by=by, released_at=func.clock_timestamp())
        .returning(StudyHold)
    ).one_or_none()
    if released is None:
        raise NotPossible("the study is not held")
    return released
