"""Events in the life of a study: states, report versions, feedback, holds; triggers write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from db.models import StudyEvent

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from sqlalchemy.orm import Session


def of_study(session: Session, study_id: uuid.UUID) -> Sequence[StudyEvent]:
    """Return the events of a study, the oldest first."""
    return session.scalars(select(StudyEvent).where(StudyEvent.study_id == study_id).order_by(StudyEvent.id)).all()
