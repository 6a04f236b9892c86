"""Pending work that the database's clock has dated later than now, before it went back, goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import structlog
from sqlalchemy import text

from db.session import transaction

if TYPE_CHECKING:
    from sqlalchemy import CursorResult
    from sqlalchemy.orm import Session

log = structlog.get_logger()

#: Rows of one kind that are dated to now in one round.
BATCH = 1000
#: Seconds by which the clocks of a primary and its standbys may differ, and beyond any pause and lease.
MAX_SKEW_SECONDS, MAX_AHEAD_SECONDS = 60, 3600
#: Rows that the database's clock has dated later than now, before it went back: they would wait until then, and no
#: alarm would compare them. A process whose time is in the future has ended, or writes the next one soon.
BRING_BACK = {
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
    # What ended under the wrong clock is counted once more when its time comes.
    "totals": text("UPDATE totals_until SET until = now() WHERE until > now() + make_interval(secs => :skew)"),
    "traces": text("""
        UPDATE trace_export SET until = least(until, now()), owner = NULL, lease_until = NULL,
            last_job = '00000000-0000-0000-0000-000000000000'
        WHERE greatest(until, lease_until) > now() + 2 * make_interval(secs => :skew)
    """),
    "commitments": text("""
        UPDATE commitments SET due_at = now()
        WHERE delivered_at IS NULL AND given_up_at IS NULL AND due_at > now() + 2 * make_interval(secs => :ahead)
    """),
}


def bring_back(url: str, lease_seconds: float) -> dict[str, int]:
    """Date pending work that is dated later than now to now; return the number of rows by kind, without zeros."""
    found = {}
    for kind in BRING_BACK:
        with transaction(url) as session:
            if rows := bring_back_some(session, kind, lease_seconds):
                found[kind] = rows
    if found:
        log.warning("database.clock_went_back", **found)
    return found


def bring_back_some(session: Session, kind: str, lease_seconds: float) -> int:
    """Date some rows of one kind to now; return their number."""
    values = {"skew": MAX_SKEW_SECONDS, "ahead": max(MAX_AHEAD_SECONDS, lease_seconds), "batch": BATCH}
    given = {name: value for name, value in values.items() if f":{name}" in BRING_BACK[kind].text}
    return cast("CursorResult[Any]", session.execute(BRING_BACK[kind], given)).rowcount
