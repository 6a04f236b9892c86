"""Which jobs to tell the workers about, and how a dispatcher learns of them without asking all the time.

A nudge says only that there is work: whoever hears it writes reports for as long as any wait. So a nudge for each
waiting job is more than enough, and a few are enough for many: there are MOST_IN_QUEUE at most, however many jobs wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import structlog
from sqlalchemy import make_url, text, update

from db.models import Job
from db.models.jobs import QUEUED_CHANNEL
from db.session import CONNECT_SECONDS
from db.states import JobState

if TYPE_CHECKING:
    import threading
    import uuid
    from collections.abc import Collection, Sequence

    from sqlalchemy import TextClause
    from sqlalchemy.orm import Session

log = structlog.get_logger()

#: Most nudges that wait in Redis: every free slot finds one, and those that find nothing are soon out of the way.
MOST_IN_QUEUE = 32
#: A nudge that left Redis and moved nothing for so many seconds is held by a worker without a free slot, which takes
#: some in advance, while another worker may be idle. One more costs nearly nothing.
HELD_SECONDS = 1.0
#: Longest sleep in which a request to stop goes unheard, in seconds.
DEAF_SECONDS = 0.5


def _query(words: str) -> TextClause:
    """*words* with what it means that a job waits, and how long ago a nudge is taken for lost."""
    return text(
        words.format(
            waiting="state = 'queued' AND available_at <= clock_timestamp()",
            long_ago="clock_timestamp() - make_interval(secs => :seconds)",
        )
    )


#: As many as are missing, the most urgent first; several dispatchers share the work.
TAKE = _query("""
    WITH taken AS (
        SELECT id FROM jobs
        WHERE {waiting} AND (sent_at IS NULL OR sent_at < {long_ago})
        ORDER BY urgent_at
        LIMIT greatest(least((SELECT count(*) FROM jobs WHERE {waiting}), :most) - :in_queue, 0)
        FOR UPDATE SKIP LOCKED
    ), told AS (
        UPDATE jobs SET sent_at = clock_timestamp() FROM taken WHERE jobs.id = taken.id RETURNING jobs.id, urgent_at
    )
    SELECT id FROM told ORDER BY urgent_at
""")
UNSENT = _query("SELECT EXISTS (SELECT FROM jobs WHERE {waiting} AND (sent_at IS NULL OR sent_at < {long_ago}))")
OVERDUE = _query("SELECT count(*) FROM jobs WHERE {waiting} AND coalesce(sent_at, available_at) < {long_ago}")
NEXT = _query("SELECT id FROM jobs WHERE {waiting} ORDER BY urgent_at LIMIT 1")


def take(session: Session, *, in_queue: int, lost_after_seconds: float) -> Sequence[uuid.UUID]:
    """The jobs to tell the workers of, given that *in_queue* nudges wait in Redis; they count as sent from now on.

    A nudge sent *lost_after_seconds* ago may have been lost, where none wait in Redis one sent HELD_SECONDS ago.
    Commit, then send: a claim steps over rows that are locked, so that a worker told too early would find nothing. A
    crash between the two costs the time after which a nudge is taken for lost.
    """
    seconds = lost_after_seconds if in_queue else HELD_SECONDS
    names = {"in_queue": in_queue, "most": MOST_IN_QUEUE, "seconds": seconds}
    return session.scalars(TAKE, names).all()


def any_to_tell(session: Session) -> bool:
    """Whether a job waits that `take` may return: without one, nobody need ask Redis how many nudges it has."""
    return bool(session.scalar(UNSENT, {"seconds": HELD_SECONDS}))


def next_waiting(session: Session) -> uuid.UUID | None:
    """The most urgent job that waits, if any does."""
    found: uuid.UUID | None = session.scalar(NEXT)
    return found


def overdue(session: Session, *, after_seconds: float) -> int:
    """How many jobs wait although their nudge was sent *after_seconds* ago, or others were on their way since."""
    return session.scalar(OVERDUE, {"seconds": after_seconds}) or 0


def not_sent(session: Session, jobs: Collection[uuid.UUID]) -> None:
    """Take back that they were sent: the broker did not answer."""
    session.execute(update(Job).where(Job.id.in_(jobs), Job.state == JobState.QUEUED).values(sent_at=None))


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
