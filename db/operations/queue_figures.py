"""Figures of the queue: the waiting jobs, and the durations of the latest reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select, text

from db.models import Job
from db.states import JobState
from db.studies.visibility import canaries

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

QUANTILES = (0.5, 0.95, 0.99)
#: Bounded by their number and by a day: an index of the ended jobs gives them in order. now(): clock_timestamp() is
#: volatile, which rules out an index.
LATEST = text("""
    WITH latest AS (
        SELECT queued_at, claimed_at, finished_at FROM jobs
        WHERE state = 'finished' AND kind = 'report' AND finished_at > now() - interval '1 day'
            AND study_id NOT IN (SELECT id FROM studies JOIN canaries USING (study_instance_uid))
        ORDER BY finished_at DESC
        LIMIT 1000
    )
    SELECT percentile_cont(CAST(:quantiles AS float[]))
            WITHIN GROUP (ORDER BY extract(epoch FROM claimed_at - queued_at)),
        percentile_cont(CAST(:quantiles AS float[]))
            WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - claimed_at))
    FROM latest
""")


@dataclass(frozen=True, slots=True)
class Waiting:
    """Number of queued jobs, and the age of the oldest in seconds; 0 if none waits."""

    jobs: int
    oldest_seconds: float


def waiting(session: Session) -> Waiting:
    """Count the queued jobs."""
    age = func.extract("epoch", func.clock_timestamp() - func.min(Job.queued_at))
    queued = Job.state == JobState.QUEUED, Job.study_id.not_in(canaries())
    jobs, oldest = session.execute(select(func.count(), age).where(*queued)).one()
    return Waiting(jobs, float(oldest or 0))


def durations(session: Session) -> dict[tuple[str, str], float]:
    """Return seconds by step and quantile of the latest 1000 reports within a day; empty without reports.

    `wait` is from the queue to the last claim, `write` from there to the stored report.
    """
    found = session.execute(LATEST, {"quantiles": list(QUANTILES)}).one()
    return {
        (step, str(quantile)): value
        for step, values in zip(("wait", "write"), found, strict=True)
        for quantile, value in zip(QUANTILES, values or (), strict=False)
    }
