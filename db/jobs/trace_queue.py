"""Ended jobs whose traces wait for a collector: the jobs themselves are the queue, in the order of their ends.

End and id of the last job that was sent are stored. Jobs are read LAG_SECONDS after their end: by then, a transaction
that wrote an earlier end has been committed or ended by the server (db.session.SERVER), so none is left out. The queue
is bounded by age: a job that ended more than MAX_AGE ago is skipped and counted.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import delete, text
from sqlalchemy.dialects.postgresql import insert

from db.models import TraceExport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from db.settings import Settings

#: Seconds between the end of a job and its trace; a transaction takes 11 s at most.
LAG_SECONDS = 20
#: Age from which a trace is of no use: a collector that was away for a weekend is not given all of it at once.
MAX_AGE = dt.timedelta(days=1)
#: Seconds for which a process that has stopped without giving its turn up keeps it; a batch takes less.
LEASE_SECONDS = 60
#: Number up to which waiting jobs are counted, so that a look at the queue takes milliseconds.
MAX_COUNTED = 10_000
NO_JOB = uuid.UUID(int=0)
#: Canaries are in no count, and in no trace.
OF_A_STUDY = """
    NOT EXISTS (SELECT FROM studies JOIN canaries USING (study_instance_uid) WHERE studies.id = jobs.study_id)
"""
TAKE = text("""
    UPDATE trace_export
    SET owner = :owner, lease_until = clock_timestamp() + make_interval(secs => :lease)
    WHERE id = 1 AND (owner IS NULL OR owner = :owner OR lease_until < clock_timestamp())
    RETURNING until, last_job
""")
SKIP = text(f"""
    UPDATE trace_export
    SET until = now() - CAST(:age AS interval), last_job = :no_job, skipped = skipped + (
        SELECT count(*) FROM jobs
        WHERE (finished_at, id) > (trace_export.until, trace_export.last_job)
            AND finished_at < now() - CAST(:age AS interval) AND {OF_A_STUDY})
    WHERE id = 1 AND until < now() - CAST(:age AS interval)
""")  # noqa: S608 - a constant
#: A job that was queued later than this after its study settled was retried by a person, whose delay is no step (as
#: in db.operations.totals). An earlier revision's arrival is not stored.
NEXT = text(f"""
    SELECT jobs.id, jobs.study_id, jobs.kind, jobs.revision, jobs.state, jobs.reason, jobs.priority, jobs.attempt,
        jobs.fence, jobs.owner, jobs.queued_at, jobs.claimed_at, jobs.finished_at,
        arrived.revision_started_at AS arrived_at, arrived.settled_at, reports.version,
        coalesce(reports.model_digest, answers.model_digest) AS model_digest,
        coalesce(reports.provenance, answers.provenance) -> 'seconds' AS seconds
    FROM jobs
    LEFT JOIN studies AS arrived ON arrived.id = jobs.study_id AND arrived.revision = jobs.revision
        AND jobs.kind = 'report' AND jobs.queued_at <= arrived.settled_at + interval '1 minute'
    LEFT JOIN reports ON reports.job_id = jobs.id
    LEFT JOIN answers ON answers.job_id = jobs.id
    WHERE (jobs.finished_at, jobs.id) > (:until, :last_job)
        AND jobs.finished_at <= now() - make_interval(secs => :lag) AND {OF_A_STUDY}
    ORDER BY jobs.finished_at, jobs.id LIMIT :jobs
""")  # noqa: S608 - the same
ADVANCE = text("""
    UPDATE trace_export
    SET until = :until, last_job = :last_job, sent = sent + :jobs, rejected = rejected + :rejected, problem = ''
    WHERE id = 1 AND owner = :owner AND lease_until > clock_timestamp()
""")
NOTE_PROBLEM = text("UPDATE trace_export SET problem = :problem WHERE id = 1 AND owner = :owner")
RELEASE = text("UPDATE trace_export SET owner = NULL, lease_until = NULL WHERE id = 1 AND owner = :owner")
FIGURES = text(f"""
    SELECT sent, skipped, rejected, problem, found.jobs,
        coalesce(greatest(extract(epoch FROM clock_timestamp() - found.oldest), 0), 0)::float
    FROM trace_export CROSS JOIN LATERAL (
        SELECT count(*) AS jobs, min(finished_at) AS oldest FROM (
            SELECT finished_at FROM jobs
            WHERE finished_at IS NOT NULL AND (finished_at, id) > (trace_export.until, trace_export.last_job)
                AND {OF_A_STUDY}
            ORDER BY finished_at LIMIT :counted
        ) AS first
    ) AS found
""")  # noqa: S608 - the same
#: Alarm for a collector that is configured, and to which nothing was ever sent.
NEVER_SENT = (
    "traces_waiting",
    "PRELIM_TRACES_URL is set and no trace was ever sent: start `prelim send-traces`; no report depends on it",
)


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that has ended, with what is stored about its steps; ids, codes, times and digests only."""

    id: uuid.UUID
    study_id: uuid.UUID
    kind: str
    revision: int
    state: str
    reason: str | None
    priority: int
    attempt: int
    fence: int
    owner: str | None
    queued_at: dt.datetime
    claimed_at: dt.datetime | None
    finished_at: dt.datetime
    #: First object of the revision, and its end; None for an inquiry, an earlier revision and a retry by a person.
    arrived_at: dt.datetime | None
    settled_at: dt.datetime | None
    #: Of its report; None without one.
    version: int | None
    model_digest: str | None
    #: Durations of the worker's steps, by name; None without a result.
    seconds: dict[str, Any] | None


class Place(NamedTuple):
    """Place in the queue: end and id of the last job that was sent."""

    until: dt.datetime
    last_job: uuid.UUID


class Figures(NamedTuple):
    """Figures of the export since it began, the last problem, and the jobs that wait (MAX_COUNTED at most)."""

    sent: int
    skipped: int
    rejected: int
    problem: str
    waiting: int
    #: Seconds since the end of the oldest waiting job; 0 without one.
    seconds: float


def begin(session: Session) -> None:
    """Begin the export with the jobs that end from now on, unless it has begun."""
    session.execute(insert(TraceExport).values(id=1).on_conflict_do_nothing())


def end(session: Session) -> None:
    """End the export: no job waits until the next `begin`."""
    session.execute(delete(TraceExport))


def take(session: Session, owner: str) -> Place | None:
    """Take or keep the turn to send; return the place in the queue, None if it is another process's turn.

    Moves over jobs that are older than MAX_AGE, and counts them.
    """
    values = {"owner": owner, "lease": LEASE_SECONDS}
    if session.execute(TAKE, values).one_or_none() is None:
        return None
    session.execute(SKIP, {"age": MAX_AGE, "no_job": NO_JOB})
    return Place(*session.execute(TAKE, values).one())


def next_jobs(session: Session, place: Place, limit: int) -> Sequence[EndedJob]:
    """Return the next ended jobs, at most *limit*."""
    values = place._asdict() | {"lag": LAG_SECONDS, "jobs": limit}
    return [EndedJob(**row) for row in session.execute(NEXT, values).mappings()]


def advance(session: Session, owner: str, sent: Sequence[EndedJob], *, rejected: int) -> None:
    """Store that *sent* are with the collector, which rejected a number of their spans.

    Without the turn it does nothing: the process that has it sends them again.
    """
    last = sent[-1]
    values = {"until": last.finished_at, "last_job": last.id, "jobs": len(sent), "rejected": rejected}
    session.execute(ADVANCE, values | {"owner": owner})


def note_problem(session: Session, owner: str, problem: str) -> None:
    """Store why an attempt failed."""
    session.execute(NOTE_PROBLEM, {"owner": owner, "problem": problem})


def release(session: Session, owner: str) -> None:
    """Give the turn up."""
    session.execute(RELEASE, {"owner": owner})


def figures(session: Session, counted: int = MAX_COUNTED) -> Figures | None:
    """Return the figures of the export, with at most *counted* waiting jobs; None if no traces are exported."""
    found = session.execute(FIGURES, {"counted": counted}).one_or_none()
    return None if found is None else Figures(*found)


def raised(session: Session, settings: Settings, *, begun: bool, running_seconds: float) -> tuple[str, str] | None:
    """Return the alarm for a job whose trace waits or, before the export has *begun*, for a sender that does not begin.

    It waits for no longer than the alarms allow, after the time for which each job waits.
    """
    after_seconds = settings.operations.alarm_seconds
    if not begun:
        return NEVER_SENT if settings.operations.traces_url and running_seconds > after_seconds else None
    found = figures(session, counted=1)
    if found is None or found.seconds <= after_seconds + LAG_SECONDS:
        return None
    cause = f"the last problem: {found.problem}" if found.problem else "no attempt failed: the sender may not run"
    return "traces_waiting", (
        f"the trace of a job waits for the collector for {found.seconds / 60:.0f} min; {cause}: see the log of"
        " `prelim send-traces`, and `prelim doctor`; those older than a day are not sent, and no report depends on them"
    )
