"""Wake-up messages: the jobs to announce to the workers, and LISTEN for the dispatcher.

A wake-up message means only that a job waits; the worker that receives it writes reports until no job is claimable. One
message per waiting job is therefore more than enough, and a long queue needs only MAX_MESSAGES of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import text, update

from db.models import Job
from db.models.jobs import QUEUED_CHANNEL
from db.session import connect, note_failure
from db.states import JobState

if TYPE_CHECKING:
    import threading
    import uuid
    from collections.abc import Collection, Sequence

    from sqlalchemy import TextClause
    from sqlalchemy.orm import Session

    from db.connection import Connection

#: Messages in Redis together: enough for every free slot, and few enough to be consumed quickly when no job is left.
MAX_MESSAGES = 32
#: Seconds until a message that left Redis without a claim is repeated: a worker without a free slot prefetches it while
#: another worker may be idle, and one more message costs almost nothing.
REDELIVER_AFTER_SECONDS = 1.0
#: Seconds between two checks of a stop request while listening.
POLL_SECONDS = 0.5


def _query(sql: str) -> TextClause:
    """Insert into *sql* the conditions of a claimable job and the time before which a message counts as lost."""
    return text(
        sql.format(
            # As text for the plan: db.jobs.claims.CLAIM.
            waiting="state = 'queued' AND (available_at <= clock_timestamp())::text <> 'false'",
            lost_before="clock_timestamp() - make_interval(secs => :seconds)",
        )
    )


#: As many jobs as messages are missing, the most urgent first. SKIP LOCKED: several dispatchers share the work.
#: Not durable: after a crash of PostgreSQL the messages are sent once more.
TAKE = _query("""
    WITH taken AS (
        SELECT id FROM jobs
        WHERE {waiting} AND (sent_at IS NULL OR sent_at < {lost_before})
        ORDER BY urgent_at
        LIMIT greatest(
            (SELECT count(*) FROM (SELECT FROM jobs WHERE {waiting} LIMIT :max_messages) AS first) - :in_queue, 0
        )
        FOR UPDATE SKIP LOCKED
    ), announced AS (
        UPDATE jobs SET sent_at = clock_timestamp()
        FROM taken
        WHERE jobs.id = taken.id AND set_config('synchronous_commit', 'off', true) = 'off'
        RETURNING jobs.id, urgent_at
    )
    SELECT id FROM announced ORDER BY urgent_at
""")
UNANNOUNCED = _query(
    "SELECT EXISTS (SELECT FROM jobs WHERE {waiting} AND (sent_at IS NULL OR sent_at < {lost_before}))"
)
#: Bounded: every worker with a free slot asks each second.
OVERDUE = _query("""
    SELECT count(*) FROM (
        SELECT FROM jobs WHERE {waiting} AND coalesce(sent_at, available_at) < {lost_before} LIMIT :at_most
    ) AS overdue
""")
NEXT = _query("SELECT id FROM jobs WHERE {waiting} ORDER BY urgent_at LIMIT 1")


def take(session: Session, *, in_queue: int, lost_after_seconds: float) -> Sequence[uuid.UUID]:
    """Return the jobs to announce, the most urgent first, and mark them as announced.

    *in_queue* is the number of messages in Redis. While there are any, a message counts as lost after
    *lost_after_seconds*, otherwise after REDELIVER_AFTER_SECONDS.
    Commit, then send: claims skip locked rows, so that a worker woken before the commit would find no job. A crash
    between the two delays the job until its message counts as lost.
    """
    seconds = lost_after_seconds if in_queue else REDELIVER_AFTER_SECONDS
    names = {"in_queue": in_queue, "max_messages": MAX_MESSAGES, "seconds": seconds}
    return session.scalars(TAKE, names).all()


def has_unannounced(session: Session) -> bool:
    """Return whether `take` may return a job: if not, the number of messages in Redis is not needed."""
    return bool(session.scalar(UNANNOUNCED, {"seconds": REDELIVER_AFTER_SECONDS}))


def next_waiting(session: Session) -> uuid.UUID | None:
    """Return the most urgent claimable job."""
    found: uuid.UUID | None = session.scalar(NEXT)
    return found


def overdue(session: Session, *, after_seconds: float, at_most: int) -> int:
    """Count the jobs, *at_most*, still claimable *after_seconds* after their message was sent or should have been."""
    return session.scalar(OVERDUE, {"seconds": after_seconds, "at_most": at_most}) or 0


def mark_unannounced(session: Session, jobs: Collection[uuid.UUID]) -> None:
    """Undo `take` for jobs whose message the broker did not accept."""
    session.execute(update(Job).where(Job.id.in_(jobs), Job.state == JobState.QUEUED).values(sent_at=None))


class JobListener:
    """Notification of queued jobs (LISTEN), on its own connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Return True once a job is queued, False after *seconds* or once *stop* is set.

        While Postgres is unreachable it waits until the timeout.
        """
        while seconds > 0 and not stop.is_set():
            if self._notified(min(seconds, POLL_SECONDS), stop):
                return True
            seconds -= POLL_SECONDS
        return False

    def close(self) -> None:
        """Close the connection; the next `wait` opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _notified(self, seconds: float, stop: threading.Event) -> bool:
        try:
            return any(True for _ in self._listening().notifies(timeout=seconds, stop_after=1))
        except psycopg.Error as error:
            note_failure(error)
            self.close()
            stop.wait(seconds)
            return False

    def _listening(self) -> Connection:
        if self._connection is None:
            self._connection = connect(self._url)
            self._connection.execute(f"LISTEN {QUEUED_CHANNEL}".encode())
        return self._connection
