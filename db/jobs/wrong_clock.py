"""Date pending work to now that the database's clock, since set back, has dated later than now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import structlog
from sqlalchemy import text

from db.limits import MAX_SKEW
from db.session import transaction

if TYPE_CHECKING:
    from sqlalchemy import CursorResult
    from sqlalchemy.orm import Session

log = structlog.get_logger()

#: Rows of one kind that are dated to now in one round.
BATCH = 1000
#: Longer than the pause of any job, storage commitment and file; twice this is no time of a correct clock.
MAX_AHEAD_SECONDS = 3600
#: By kind. Such rows would wait until that time, without an alarm. A process dated later has ended, or writes its next
#: heartbeat soon. Twice the skew is longer than the turn of a process that sends traces (trace_queue.LEASE_SECONDS).
DATED_LATER = {
    "studies": text("""
        UPDATE studies SET last_received_at = least(last_received_at, now()),
            revision_started_at = least(revision_started_at, now())
        WHERE id IN (
            SELECT id FROM studies WHERE state = 'receiving'
                AND greatest(last_received_at, revision_started_at) > now() + make_interval(secs => :skew)
            ORDER BY id LIMIT :batch FOR UPDATE SKIP LOCKED)
    """),
    "jobs": text("""
        UPDATE jobs SET queued_at = least(queued_at, now()), available_at = least(available_at, now()), sent_at = NULL,
            urgent_at = urgent_at - greatest(queued_at - now(), interval '0')
        WHERE id IN (
            SELECT id FROM jobs WHERE state = 'queued'
                AND (greatest(queued_at, sent_at) > now() + make_interval(secs => :skew)
                    OR available_at > now() + make_interval(secs => :ahead))
            ORDER BY id LIMIT :batch FOR UPDATE SKIP LOCKED)
    """),
    "leases": text("""
        UPDATE jobs SET lease_until = now() + make_interval(secs => :ahead)
        WHERE id IN (
            SELECT id FROM jobs WHERE state = 'running' AND lease_until > now() + 2 * make_interval(secs => :ahead)
            ORDER BY id LIMIT :batch FOR UPDATE SKIP LOCKED)
    """),
    "processes": text("""
        UPDATE processes SET seen_at = least(seen_at, now()), started_at = least(started_at, now())
        WHERE greatest(seen_at, started_at) > now() + make_interval(secs => :skew)
    """),
    # Jobs that ended under the wrong clock are counted a second time once their time comes.
    "totals": text("UPDATE totals_until SET until = now() WHERE until > now() + make_interval(secs => :skew)"),
    "traces": text("""
        UPDATE trace_export SET until = least(until, now()), owner = NULL, lease_until = NULL,
            last_job = '00000000-0000-0000-0000-000000000000'
        WHERE greatest(until, lease_until) > now() + 2 * make_interval(secs => :skew)
    """),
    "moves": text("""
        UPDATE instances SET storage_due_at = now()
        WHERE id IN (
            SELECT id FROM instances
            WHERE object_sha256 IS NULL AND storage_due_at > now() + 2 * make_interval(secs => :ahead)
            ORDER BY id LIMIT :batch FOR UPDATE SKIP LOCKED)
    """),
    "commitments": text("""
        UPDATE commitments SET due_at = now()
        WHERE delivered_at IS NULL AND given_up_at IS NULL AND due_at > now() + 2 * make_interval(secs => :ahead)
    """),
}


def date_to_now(url: str, lease_seconds: float) -> dict[str, int]:
    """Date all kinds to now; return the number of rows by kind, without zeros."""
    found = {}
    for kind in DATED_LATER:
        with transaction(url) as session:
            if rows := date_some_to_now(session, kind, lease_seconds):
                found[kind] = rows
    if found:
        log.warning("database.clock_went_back", **found)
    return found


def date_some_to_now(session: Session, kind: str, lease_seconds: float) -> int:
    """Date some rows of one kind to now; return their number."""
    values = {"skew": MAX_SKEW.total_seconds(), "ahead": max(MAX_AHEAD_SECONDS, lease_seconds), "batch": BATCH}
    return cast("CursorResult[Any]", session.execute(DATED_LATER[kind], values)).rowcount
