"""Which jobs to tell the workers about, and how a dispatcher learns of them without asking all the time.

A nudge says only that there is work. One for each waiting job is enough, so that is the most there ever are: a nudge
is sent again only where there are fewer in Redis than jobs that wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import structlog
from sqlalchemy import make_url, text, update

from db.models import QUEUED_CHANNEL, Job
from db.session import CONNECT_SECONDS

if TYPE_CHECKING:
    import threading
    import uuid
    from collections.abc import Collection, Sequence

    from sqlalchemy.orm import Session

log = structlog.get_logger()

#: Most nudges sent in one go.
BATCH = 100
#: Longest sleep in which a request to stop goes unheard, in seconds.
DEAF_SECONDS = 0.5


WAITING = "state = 'queued' AND available_at <= clock_timestamp()"
SENT_BEFORE = "sent_at < clock_timestamp() - make_interval(secs => :seconds)"
#: Marks the most urgent as sent now; several dispatchers share the work.
TAKE = """
    WITH taken AS (
        SELECT id FROM jobs WHERE {which} ORDER BY urgent_at LIMIT :most FOR UPDATE SKIP LOCKED
    ), told AS (
        UPDATE jobs SET sent_at = clock_timestamp() FROM taken WHERE jobs.id = taken.id RETURNING jobs.id, urgent_at
    )
    SELECT id FROM told ORDER BY urgent_at
"""
TAKE_UNSENT = text(TAKE.format(which=f"{WAITING} AND sent_at IS NULL"))
TAKE_SENT = text(TAKE.format(which=f"{WAITING} AND {SENT_BEFORE}"))
COUNT = "SELECT count(*) FROM jobs WHERE {which}"
COUNT_WAITING = text(COUNT.format(which=WAITING))
COUNT_SENT = text(COUNT.format(which=f"{WAITING} AND {SENT_BEFORE}"))


def take_unsent(session: Session) -> Sequence[uuid.UUID]:
    """The waiting jobs nobody was told of, the most urgent first; they count as sent from now on.

    Commit, then send: a claim steps over rows that are locked, so that a worker told too early would find nothing. A
    crash between the two costs the time after which a nudge is taken for lost.
    """
    return session.scalars(TAKE_UNSENT, {"most": BATCH}).all()


def overdue(session: Session, *, after_seconds: float) -> int:
    """How many jobs wait although their nudge was sent *after_seconds* ago: lost, or the queue is long."""
    return session.scalar(COUNT_SENT, {"seconds": after_seconds}) or 0


def take_lost(session: Session, *, after_seconds: float, in_queue: int) -> Sequence[uuid.UUID]:
    """The jobs whose nudge must be sent again, given that *in_queue* are on their way: as many as are missing."""
    waiting = session.scalar(COUNT_WAITING) or 0
    missing = min(waiting - in_queue, BATCH)
    if missing <= 0:
        return []
    return session.scalars(TAKE_SENT, {"most": missing, "seconds": after_seconds}).all()


def not_sent(session: Session, jobs: Collection[uuid.UUID]) -> None:
    """Take back that they were sent: the broker did not answer."""
    session.execute(update(Job).where(Job.id.in_(jobs), Job.state == "queued").values(sent_at=None))


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
