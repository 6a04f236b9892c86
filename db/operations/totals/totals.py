"""Totals for Prometheus: durations of reports by step and priority, ended jobs, received objects.

Counting all rows at each scrape would take longer with every year, and counters in the processes would end with them.
The dispatcher therefore adds the rows of the time since its last visit to a small table. It stays LAG_SECONDS behind:
by then, a transaction that wrote an earlier time has been committed or ended by the server (db.session.SERVER).
"""

from __future__ import annotations

import datetime as dt
import uuid
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select, text, update

from db.models.operations import Total, TotalsUntil
from db.session import transaction
from db.states import JobKind, JobState
from db.studies.priority import LEVELS

if TYPE_CHECKING:
    import threading

    from sqlalchemy.orm import Session

    from db.settings import Settings

#: Seconds that the totals are behind; a transaction takes 11 s at most.
LAG_SECONDS = 20
#: Seconds between two visits.
PAUSE_SECONDS = 10
#: Time that one visit covers, so that it stays short after an outage of the dispatcher.
MAX_SPAN = dt.timedelta(hours=1)
#: Upper bounds of the buckets, in seconds.
BUCKETS = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
#: Steps of a report: first object of the revision -> settled, queued -> last claim, claim -> report, and all together.
STEPS = ("settle", "wait", "write", "total")
PRIORITIES = {level: name.lower() for name, level in LEVELS.items() if name != "MEDIUM"}
ENDS = (JobState.FINISHED, JobState.NOT_REPORTABLE, JobState.FAILED, JobState.SUPERSEDED, JobState.CANCELLED)
#: A job that was queued later than this after its study settled was retried by a person, whose delay is no step.
ADD = text("""
    WITH canary AS (
        SELECT id FROM studies JOIN canaries USING (study_instance_uid)
    ), ended AS (
        SELECT jobs.*, studies.settled_at, studies.revision_started_at FROM jobs
        LEFT JOIN studies ON studies.id = jobs.study_id AND studies.revision = jobs.revision
            AND jobs.queued_at <= studies.settled_at + interval '1 minute'
        WHERE jobs.finished_at > :since AND jobs.finished_at <= :until AND jobs.study_id NOT IN (SELECT id FROM canary)
    ), steps AS (
        SELECT step, priority, greatest(extract(epoch FROM taken), 0)::float AS seconds FROM ended,
            LATERAL (VALUES
                ('settle', settled_at - revision_started_at),
                ('wait', claimed_at - queued_at),
                ('write', finished_at - claimed_at),
                ('total', finished_at - revision_started_at)
            ) AS parts(step, taken)
        WHERE ended.state = 'finished' AND ended.kind = 'report' AND taken IS NOT NULL
    ), fresh AS (
        SELECT 'step' AS metric, ARRAY[step, priority::text,
                (SELECT count(*) FROM unnest(CAST(:bounds AS float[])) AS bound WHERE bound < seconds)::text] AS labels,
            count(*) AS number, sum(seconds) AS amount
        FROM steps GROUP BY 1, 2
        UNION ALL SELECT 'ended', ARRAY[kind, state], count(*), 0 FROM ended GROUP BY kind, state
        UNION ALL SELECT 'objects', '{}', count(*), coalesce(sum(file_bytes), 0)
            FROM instances WHERE id >= :first AND id < :last AND study_id NOT IN (SELECT id FROM canary)
    )
    INSERT INTO totals (metric, labels, number, amount) SELECT * FROM fresh
    ON CONFLICT (metric, labels) DO UPDATE
        SET number = totals.number + excluded.number, amount = totals.amount + excluded.amount
""")
NOW = text("SELECT clock_timestamp()")


class Durations(NamedTuple):
    """Durations of one step at one priority: numbers up to each bound of BUCKETS and in all, and their sum."""

    up_to: list[int]
    seconds: float


class Totals(NamedTuple):
    """All totals; every combination of labels is present."""

    #: By step and name of the priority.
    durations: dict[tuple[str, str], Durations]
    #: By kind and final state of the job.
    ended: dict[tuple[str, str], int]
    objects: int
    bytes: int


def run_once(settings: Settings, stop: threading.Event) -> None:
    """Add the time since the last visit, then wait for the next one, or for *stop*."""
    with transaction(settings.database()) as session:
        more = add_latest(session)
    stop.wait(0 if more else PAUSE_SECONDS)


def add_latest(session: Session) -> bool:
    """Add the time since the last visit; return whether more is left. Does nothing beside another dispatcher."""
    since = session.scalar(select(TotalsUntil.until).with_for_update(skip_locked=True))
    if since is None:
        return False
    newest = session.scalars(NOW).one() - dt.timedelta(seconds=LAG_SECONDS)
    until = min(newest, since + MAX_SPAN)
    if until <= since:
        return False
    values = {"since": since, "until": until, "first": first_id(since), "last": first_id(until)}
    session.execute(ADD, values | {"bounds": [float(bound) for bound in BUCKETS]})
    session.execute(update(TotalsUntil).values(until=until))
    return bool(until < newest)


def first_id(at: dt.datetime) -> uuid.UUID:
    """Return the smallest time-ordered id of a time (RFC 9562, UUID version 7: 48 bits of milliseconds first)."""
    return uuid.UUID(int=int(at.timestamp() * 1000) << 80)


def read(session: Session) -> Totals:
    """Return all totals."""
    columns = Total.metric, Total.labels, Total.number, Total.amount
    numbers = {(row.metric, *row.labels): row for row in session.execute(select(*columns))}

    def number(*key: str) -> int:
        return int(numbers[key].number) if key in numbers else 0

    def durations(step: str, level: int) -> Durations:
        keys = [("step", step, str(level), str(bucket)) for bucket in range(len(BUCKETS) + 1)]
        seconds = sum(numbers[key].amount for key in keys if key in numbers)
        return Durations(list(accumulate(number(*key) for key in keys)), seconds)

    objects = numbers.get(("objects",))
    return Totals(
        {(step, name): durations(step, level) for step in STEPS for level, name in PRIORITIES.items()},
        {(kind, state): number("ended", kind, state) for kind in JobKind for state in ENDS},
        objects.number if objects else 0,
        int(objects.amount) if objects else 0,
    )
