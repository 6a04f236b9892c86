"""The work of a day: from a number of studies and published figures, or from the installation's own database."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import text

from db.errors import NotPossible
from db.operations import heartbeats
from db.operations.heartbeats import Role
from db.session import reading
from db.studies.priority import ROUTINE
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
ASSUMED_URGENT = 0.1
#: Days of the database that are read, and reports and objects of them.
DAYS, MAX_REPORTS, MAX_OBJECTS = 28, 5000, 200_000
#: Reports from which durations are told.
MIN_REPORTS = 20

ARRIVALS = text("""
    SELECT extract(hour FROM first_received_at)::int, count(*), date_trunc('day', first_received_at)
    FROM studies WHERE first_received_at > date_trunc('day', now()) - make_interval(days => :days)
        AND study_instance_uid NOT IN (SELECT study_instance_uid FROM canaries)
    GROUP BY 1, 3
""")
JOBS = text("""
    SELECT coalesce(owner, ''),
        extract(epoch FROM CASE attempt WHEN 1 THEN queued_at ELSE greatest(queued_at, available_at) END)::float,
        priority,
        extract(epoch FROM claimed_at)::float,
        greatest(extract(epoch FROM finished_at), extract(epoch FROM claimed_at) + 0.000001)::float,
        kind = 'report' AND state = 'finished'
            AND study_id NOT IN (SELECT id FROM studies JOIN canaries USING (study_instance_uid))
    FROM jobs WHERE finished_at > now() - make_interval(days => :days) AND claimed_at >= queued_at
        AND finished_at >= claimed_at
    ORDER BY finished_at DESC LIMIT :most
""")
SIZES = text("""
    SELECT sum(file_bytes)::float / nullif(count(DISTINCT study_id), 0),
        count(*)::float / nullif(count(DISTINCT study_id), 0)
    FROM (SELECT file_bytes, study_id FROM instances ORDER BY id DESC LIMIT :most) AS latest
    WHERE study_id NOT IN (SELECT id FROM studies JOIN canaries USING (study_instance_uid))
""")


@dataclass(frozen=True, slots=True)
class Load:
    """Studies of a day with their times, priorities, sizes, and the seconds that a worker needs for a report."""

    studies: float
    #: Of reports that a worker writes alone; with a *sharing* of 0, of those that it writes with all slots busy.
    seconds: Sequence[float]
    #: Reports that one worker, with its GPU, writes at a time.
    slots: int
    hours: Sequence[float] = tuple(share / sum(ASSUMED_HOURS) for share in ASSUMED_HOURS)
    urgent_share: float = ASSUMED_URGENT
    bytes: float = ASSUMED_BYTES
    objects: float = ASSUMED_OBJECTS
    speed: Speed = NO_DELAYS

    def times(self, factor: float) -> Load:
        """Return the same day with more studies."""
        return replace(self, studies=self.studies * factor)

    def workers(self, number: int) -> Workers:
        """Return *number* workers of this speed."""
        speed = self.speed
        return Workers(number, self.slots, speed.sharing, speed.after_another, speed.when_idle)

    @property
    def busy_workers(self) -> float:
        """Workers that are busy in the busiest hour, with all their slots."""
        alone = self.studies * max(self.hours) / HOUR * sum(self.seconds) / len(self.seconds)
        return alone * (1 + self.speed.sharing * (self.slots - 1)) / self.slots


@dataclass(frozen=True, slots=True)
class Measured:
    """Jobs that today's workers have ended, in the order of arrival, with their waits, and those workers."""

    jobs: list[Arrival]
    waits: list[float]
    workers: Workers


def durations(reports_per_minute: float, slots: int) -> list[float]:
    """Return the seconds of reports of a worker with all slots busy, by which it writes *reports_per_minute*.

    Assumed to spread evenly from half the mean to one and a half: `from_database` has the measured ones.
    """
    mean = 60 * slots / reports_per_minute
    return [mean * (0.5 + number / 100) for number in range(101)]


def read(settings: Settings) -> tuple[Load, Measured | None]:
    """Return `from_database` of the installation."""
    with reading(settings.database()) as session:
        return from_database(session)


def from_database(session: Session) -> tuple[Load, Measured | None]:
    """Return the load of the busiest day of DAYS, and the jobs of today's workers if they have ended enough.

    Raises NotPossible without reports.
    """
    jobs = [Ended(*row) for row in session.execute(JOBS, {"days": DAYS, "most": MAX_REPORTS})]
    jobs.sort(key=lambda job: job.at)
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
    load = Load(
        studies=max(days),
        seconds=[seconds[number] for number in reports],
        slots=slots,
        hours=hours,
        urgent_share=sum(jobs[number].priority > ROUTINE for number in reports) / len(reports),
        bytes=size or ASSUMED_BYTES,
        objects=objects or ASSUMED_OBJECTS,
        speed=speed,
    )
    return load, _measured(jobs, seconds, replace(load.workers(len(alive)), begin=begin))


def _measured(jobs: Sequence[Ended], seconds: Sequence[float], workers: Workers) -> Measured | None:
    """Return the jobs that were claimed since all *workers* run; None if they are few."""
    # With other workers before, the queue was served at another rate.
    since = [number for number, job in enumerate(jobs) if job.claimed >= workers.begin]
    if len(since) < MIN_REPORTS:
        return None
    arrivals = [Arrival(jobs[number].at, jobs[number].priority, seconds[number]) for number in since]
    return Measured(arrivals, [jobs[number].claimed - jobs[number].at for number in since], workers)


def _hours(session: Session) -> tuple[list[int], list[float]]:
    """Return the studies of each day, and the share of each hour of all days."""
    days: dict[object, int] = {}
    hours = [0] * 24
    for hour, number, day in session.execute(ARRIVALS, {"days": DAYS}):
        days[day] = days.get(day, 0) + number
        hours[hour] += number
    return list(days.values()), [number / max(sum(hours), 1) for number in hours]
