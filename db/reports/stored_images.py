"""Stored images of a study, in the order in which a reader goes through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from db.models import Instance

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

#: Images of one study that are listed; whole-slide series and dynamic studies have a few thousand.
MAX_IMAGES = 20_000


def images(session: Session, study_id: uuid.UUID) -> Sequence[Instance]:
    """Return the images of a study by series and instance number, at most MAX_IMAGES."""
    columns = (
        Instance.series_number.nulls_last(),
        Instance.series_instance_uid,
        Instance.instance_number.nulls_last(),
        Instance.received_at,
        Instance.id,
    )
    found = select(Instance).where(Instance.study_id == study_id, Instance.reportable)
    return session.scalars(found.order_by(*columns).limit(MAX_IMAGES)).all()


def image(session: Session, study_id: uuid.UUID, instance_id: uuid.UUID) -> Instance | None:
    """Return one image of a study; None if the study has no such image."""
    found = session.get(Instance, instance_id)
    return found if found is not None and found.study_id == study_id and found.reportable else None
