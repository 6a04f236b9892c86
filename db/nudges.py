"""Which jobs to tell the workers about, and how a dispatcher learns of them without asking all the time.

A nudge says only that there is work. One for each waiting job is enough, so that is the most there ever are: a nudge
is sent again only where there are fewer in Redis than jobs that wait.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import psycopg
import structlog
from sqlalchemy import func, make_url, select, update

from db.models import QUEUED_CHANNEL, Job
from db.session import CONNECT_SECONDS

if TYPE_CHECKING:
    import threading
    import uuid
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

log = structlog.get_logger()

#: Most nudges sent in one go.
BATCH = 100
#: Longest sleep in which a request to stop goes unheard, in seconds.
DEAF_SECONDS = 0.5


def take_unsent(session: Session) -> Sequence[uuid.UUID]:
    """The waiting jobs nobody was told of, the most urgent first; they count as sent from now on.

    Commit, then send: a claim steps over rows that are locked, so that a worker told too early would find nothing. A
    crash between the two costs the time after which a nudge is taken for lost.
    """
    return _take(session, Job.sent_at.is_(None), BATCH)


def overdue(session: Session, *, after_seconds: float) -> int:
    """How many jobs wait although their nudge was sent *after_seconds* ago: lost, or the queue is long."""
    return session.scalar(select(func.count()).select_from(Job).where(*_waiting(), _sent_before(after_seconds))) or 0


def take_lost(session: Session, *, after_seconds: float, in_queue: int) -> Sequence[uuid.UUID]:
    """The jobs whose nudge must be sent again, given that *in_queue* are on their way: as many as are missing."""
    waiting = session.scalar(select(func.count()).select_from(Job).where(*_waiting())) or 0
    missing = min(waiting - in_queue, BATCH)
    return _take(session, _sent_before(after_seconds), missing) if missing > 0 else []


def not_sent(session: Session, jobs: Collection[uuid.UUID]) -> None:
    """Take back that they were sent: the broker did not answer."""
    session.execute(update(Job).where(Job.id.in_(jobs), Job.state == "queued").values(sent_at=None))


def _waiting() -> tuple[ColumnElement[bool], ...]:
    return Job.state == "queued", Job.available_at <= func.clock_timestamp()


def _sent_before(seconds: float) -> ColumnElement[bool]:
    return Job.sent_at < func.clock_timestamp() - dt.timedelta(seconds=seconds)


def _take(session: Session, which: ColumnElement[bool], most: int) -> Sequence[uuid.UUID]:
    rows = (
        select(Job.id)
        .where(*_waiting(), which)
        .order_by(Job.urgent_at)
        .limit(most)
        # Several dispatchers share the work.
        .with_for_update(skip_locked=True)
    )
    taken = session.scalars(rows).all()
    if taken:
        session.execute(update(Job).where(Job.id.in_(taken)).values(sent_at=func.clock_timestamp()))
    return taken


class Bell:
    """Rings when a job is queued (LISTEN, on a connection of its own)."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def rings_within(self, seconds: float, stop: threading.Event) -> bool:
        """Whether it rang before *seconds* were over or *stop* was set; never while Postgres is away."""
        while seconds > 0 and not stop.is_set():
            if self._heard_within(min(seconds, DEAF_SECONDS), stop):
                return True
            seconds -= DEAF_SECONDS
        return False

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _heard_within(self, seconds: float, stop: threading.Event) -> bool:
        try:
            return any(True for _ in self._listening().notifies(timeout=seconds, stop_after=1))
        except psycopg.Error as error:
            log.info("bell.silent", why=type(error).__name__)
            self.close()
            stop.wait(seconds)
            return False

    def _listening(self) -> psycopg.Connection[tuple[object, ...]]:
        if self._connection is None:
            self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=CONNECT_SECONDS)
            self._connection.execute(f"LISTEN {QUEUED_CHANNEL}".encode())
        return self._connection
