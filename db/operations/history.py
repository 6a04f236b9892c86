"""Events in the life of a study: states, report versions, feedback, holds; triggers write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import func, select, text

from db.models import Instance, Study, StudyEvent
from db.studies.visibility import no_canary

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Sequence

    from sqlalchemy.orm import Session


def of_study(session: Session, study_id: uuid.UUID) -> Sequence[StudyEvent]:
    """Return the events of a study, the oldest first."""
    return session.scalars(select(StudyEvent).where(StudyEvent.study_id == study_id).order_by(StudyEvent.id)).all()


#: Advisory lock of the process that publishes events.
LOCK = 1_402
#: Events published or read at a time, and the age up to which an event is published: older ones have no listener.
BATCH, MAX_AGE = 1000, "1 hour"
_PUBLISH = text(f"""
    UPDATE study_events SET position = published.position
    FROM (
        SELECT id, nextval('study_event_positions') AS position FROM (
            SELECT id FROM (
                SELECT id, at FROM study_events WHERE position IS NULL ORDER BY id DESC LIMIT {BATCH}
            ) AS newest WHERE at > now() - interval '{MAX_AGE}' ORDER BY id
        ) AS ordered
    ) AS published
    WHERE study_events.id = published.id
""")  # noqa: S608 - constants
#: Greatest position ever given to an event.
_ISSUED = text("SELECT last_value FROM study_event_positions")


class Published(NamedTuple):
    """A published event, with the calling AE titles of all objects of its study."""

    position: int
    study_id: uuid.UUID
    kind: str
    detail: str
    at: dt.datetime
    ae_titles: list[str]


def publish(session: Session) -> None:
    """Give committed events their places in the order of publication, unless another process does.

    The lock is held until the end of the transaction: a greater position never becomes visible before a smaller one.
    """
    if session.scalar(select(func.pg_try_advisory_xact_lock(LOCK))):
        session.execute(_PUBLISH)


def is_complete_since(session: Session, position: int) -> bool:
    """Return whether every event behind *position* is or will be published; too old ones never are.

    False for a position that was never issued, as one of another database. Its event may be deleted with its study.
    """
    if position > (session.scalar(_ISSUED) or 0):
        return False
    before = select(StudyEvent.id).where(StudyEvent.position <= position).order_by(StudyEvent.position.desc()).limit(1)
    known = func.coalesce(before.scalar_subquery(), 0)
    old = StudyEvent.at < func.now() - text(f"interval '{MAX_AGE}'")
    lost = select(StudyEvent.id).where(StudyEvent.position.is_(None), StudyEvent.id > known, old)
    return session.scalar(lost.limit(1)) is None


def newest(session: Session) -> int:
    """Return the position of the newest published event; 0 if there is none."""
    return session.scalar(select(func.max(StudyEvent.position))) or 0


def since(session: Session, position: int) -> list[Published]:
    """Return the events published behind *position*, at most BATCH."""
    columns = StudyEvent.position, StudyEvent.study_id, StudyEvent.kind, StudyEvent.detail, StudyEvent.at
    senders = select(func.array_agg(Instance.calling_ae_title.distinct())).where(Instance.study_id == Study.id)
    query = select(*columns, func.array_append(senders.scalar_subquery(), Study.calling_ae_title))
    query = query.join(Study, Study.id == StudyEvent.study_id).where(no_canary())
    rows = session.execute(query.where(StudyEvent.position > position).order_by(StudyEvent.position).limit(BATCH))
    # The condition excludes NULL.
    return [Published(*row) for row in rows]
