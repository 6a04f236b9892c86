"""The work of a day: from a number of studies and published figures, or from the installation's own database."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import text

from db.errors import NotPossible
from db.operations import heartbeats
from db.operations.heartbeats import Role
from db.session import reading
from db.studies.priority import HIGH, ROUTINE
from deploy.operate.plan.measured import NO_DELAYS, Ended, Speed, seconds_alone, speed_of
from deploy.operate.plan.simulation import HOUR, Arrival, Workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from db.settings import Settings

#: Shares of the hours of a day. Assumed: no public table exists; the busiest hour has 9.3 %, 2.2 times the mean.
ASSUMED_HOURS = (
    *(0.9, 0.7, 0.6, 0.6, 0.7, 1.2, 2.6, 5.2, 8.2, 9.2, 9.3, 8.8),
    *(7.4, 7.9, 8.2, 7.6, 5.9, 4.0, 3.0, 2.4, 2.0, 1.6, 1.1, 0.9),
)
#: Size of a study, from the mix of NHS England (Diagnostic Imaging Dataset, October 2012) with 2, 30, 500 and 300
#: images of a radiograph, an ultrasound, a CT and an MR.
ASSUMED_BYTES, ASSUMED_OBJECTS = 47e6, 74
#: One report of ten is urgent.
ASSUMED_PRIORITIES = (HIGH, *[ROUTINE] * 9)
#: Of a day, of a worker with all slots busy, and of a worker, where no number is given.
STUDIES, REPORTS_PER_MINUTE, SLOTS = 1000.0, 20.0, 4
#: Days of the database that are read, and reports, objects and studies of them.
DAYS, MAX_REPORTS, MAX_OBJECTS, MAX_STUDIES = 28, 5000, 200_000, 2_000_000
#: Reports from which durations are told.
MIN_REPORTS = 20

#: From an index alone: the table is not read.
ARRIVALS = text("""
    SELECT extract(hour FROM first_received_at)::int, count(*), date_trunc('day', first_received_at)
    FROM (
        SELECT first_received_at FROM studies
        WHERE first_received_at > date_trunc('day', now()) - make_interval(days => :days)
            AND id NOT IN (SELECT id FROM studies JOIN canaries USING (study_instance_uid))
        ORDER BY first_received_at DESC, id DESC LIMIT :most
    ) AS latest
    GROUP BY 1, 3
""")
#: A job of several attempts counts with its last one, from the end of its pause; after an expired lease, whose end is
#: not stored, from its claim.
JOBS = text("""
    SELECT owner,
        extract(epoch FROM CASE WHEN attempt <= 1 THEN queued_at
            WHEN available_at > queued_at THEN available_at ELSE greatest(queued_at, claimed_at) END)::float,
        priority,
        extract(epoch FROM claimed_at)::float,
        greatest(extract(epoch FROM finished_at), extract(epoch FROM claimed_at) + 0.000001)::float,
        kind = 'report' AND state = 'finished'
            AND study_id NOT IN (SELECT id FROM studies JOIN canaries USING (study_instance_uid)),
        claimed_at >= queued_at AND finished_at >= claimed_at AND finished_at <= clock_timestamp()
    FROM jobs WHERE finished_at > now() - make_interval(days => :days) AND claimed_at IS NOT NULL AND owner IS NOT NULL
    ORDER BY finished_at DESC LIMIT :most
""")
REPORTS_PER_STUDY = text("""
    SELECT count(*)::float / nullif(count(DISTINCT study_id), 0) FROM (
        SELECT study_id FROM jobs
        WHERE finished_at > now() - make_interval(days => :days) AND kind = 'report' AND state = 'finished'
        ORDER BY finished_at DESC LIMIT :most
    ) AS latest
    WHERE study_id NOT IN (SELECT id FROM studies JOIN canaries USING (study_instance_uid))
""")
SIZES = text("""
    SELECT avg(bytes)::float, avg(objects)::float FROM (
        SELECT sum(file_bytes) AS bytes, count(*) AS objects
        FROM (SELECT file_bytes, study_id FROM instances ORDER BY id DESC LIMIT :most) AS latest
        WHERE study_id NOT IN (SELECT id FROM studies JOIN canaries USING (study_instance_uid))
        GROUP BY study_id
    ) AS of_studies
""")


@dataclass(frozen=True, slots=True)
class Load:
    """Studies of a day with their times, priorities, sizes, and the seconds that a worker needs for a report."""

    studies: float
    #: Priorities of reports, and the seconds in which a worker writes each alone; with a *sharing* of 0, with all slots
    #: busy. They are drawn together: urgent studies are often of another modality, and take another time.
    reports: Sequence[tuple[int, float]]
    #: Reports that one worker, with its GPU, writes at a time.
    slots: int
    hours: Sequence[float] = tuple(share / sum(ASSUMED_HOURS) for share in ASSUMED_HOURS)
    bytes: float = ASSUMED_BYTES
    objects: float = ASSUMED_OBJECTS
    speed: Speed = NO_DELAYS
    #: Jobs of the database that are not in it: their times are not in order.
    left_out: int = 0
    #: Reports of a study: late images have further ones.
    reports_per_study: float = 1.0
    #: Days of the database with studies, of which the busiest counts; None: not from the database.
    days: int | None = None

    def with_studies(self, studies: float) -> Load:
        """Return the same day with another number of studies."""
        return replace(self, studies=studies)

    def workers(self, number: int) -> Workers:
        """Return *number* workers of this speed."""
        speed = self.speed
        return Workers(number, self.slots, speed.sharing, speed.after_another, speed.when_idle)

    @property
    def jobs(self) -> float:
        """Reports of the day."""
        return self.studies * self.reports_per_study

    @property
    def seconds(self) -> float:
        """Mean time of a report alone on its worker."""
        return sum(seconds for _, seconds in self.reports) / len(self.reports)

    @property
    def busy_workers(self) -> float:
        """Workers that are busy in the busiest hour, with all their slots."""
        alone = self.jobs * max(self.hours) / HOUR * self.seconds
        return alone * (1 + self.speed.sharing * (self.slots - 1)) / self.slots


@dataclass(frozen=True, slots=True)
class Measured:
    """Jobs that today's workers have ended, in the order of arrival, with their waits, and those workers."""

    jobs: list[Arrival]
    waits: list[float]
    workers: Workers


def assumed(reports_per_minute: float | None, slots: int | None) -> Load:
    """Return the load of STUDIES, of workers that write *reports_per_minute* with all *slots* busy.

    Durations are assumed to spread evenly from half the mean to one and a half: `from_database` has the measured ones.
    """
    slots = slots or SLOTS
    mean = 60 * slots / (reports_per_minute or REPORTS_PER_MINUTE)
    spread = [mean * (0.5 + number / 100) for number in range(101)]
    return Load(STUDIES, [(priority, seconds) for seconds in spread for priority in ASSUMED_PRIORITIES], slots)


def read(settings: Settings) -> tuple[Load, Measured | None]:
    """Return `from_database` of the installation."""
    with reading(settings.database()) as session:
        return from_database(session)


def from_database(session: Session) -> tuple[Load, Measured | None]:
    """Return the load of the busiest day of DAYS, and the jobs of today's workers if they have ended enough.

    Raises NotPossible without reports.
    """
    jobs, left_out = _jobs(session)
    alive = heartbeats.alive(session, Role.WORKER)
    reports = [number for number, job in enumerate(jobs) if job.is_report]
    if len(reports) < MIN_REPORTS or not alive:
        raise NotPossible(f"expected {MIN_REPORTS} reports of the last {DAYS} days and a running worker: give numbers")
    slots = max(sum(int(worker.info.get("slots", 1)) for worker in alive) // len(alive), 1)
    begin = max(worker.started_at for worker in alive).timestamp()
    speed = speed_of(jobs, slots, begin)
    seconds = seconds_alone(jobs, speed.sharing)
    size, objects = session.execute(SIZES, {"most": MAX_OBJECTS}).one()
    days, hours = _hours(session)
    if not days:
        raise NotPossible(f"expected a study of the last {DAYS} days: give numbers")
    load = Load(
        studies=max(days),
        reports=[(jobs[number].priority, seconds[number]) for number in reports],
        slots=slots,
        hours=hours,
        bytes=size or ASSUMED_BYTES,
        objects=objects or ASSUMED_OBJECTS,
        speed=speed,
        left_out=left_out,
        reports_per_study=session.scalars(REPORTS_PER_STUDY, {"days": DAYS, "most": MAX_REPORTS}).one() or 1.0,
        days=len(days),
    )
    return load, _measured(jobs, seconds, replace(load.workers(len(alive)), begin=begin))


def _jobs(session: Session) -> tuple[list[Ended], int]:
    """Return the latest ended jobs in the order of arrival, and the number of those whose times are not in order."""
    rows = session.execute(JOBS, {"days": DAYS, "most": MAX_REPORTS}).all()
    jobs = [Ended(*times) for *times, is_ordered in rows if is_ordered]
    return sorted(jobs, key=lambda job: job.at), len(rows) - len(jobs)


def _measured(jobs: Sequence[Ended], seconds: Sequence[float], workers: Workers) -> Measured | None:
    """Return the jobs that were claimed since all *workers* run; None if they are few."""
    # With other workers before, the queue was served at another rate.
    since = [number for number, job in enumerate(jobs) if job.claimed >= workers.begin]
    if len(since) < MIN_REPORTS:
        return None
    arrivals = [Arrival(jobs[number].at, jobs[number].priority, seconds[number]) for number in since]
    return Measured(arrivals, [jobs[number].claimed - jobs[number].at for number in since], workers)


def _hours(session: Session) -> tuple[list[int], list[float]]:
    """Return the studies of each day, and the share of each hour of all days; the oldest day is left out if cut."""
    days = defaultdict[dt.datetime, Counter[int]](Counter)
    for hour, number, day in session.execute(ARRIVALS, {"days": DAYS, "most": MAX_STUDIES}):
        days[day][hour] += number
    if len(days) > 1 and sum(map(Counter.total, days.values())) >= MAX_STUDIES:
        del days[min(days)]
    hours = sum(days.values(), Counter[int]())
    return [day.total() for day in days.values()], [hours[hour] / max(hours.total(), 1) for hour in range(24)]
