"""Reports whose commit was confirmed to a worker, compared with the database after failovers."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from sqlalchemy import select

from db.models import Job
from db.session import transaction

if TYPE_CHECKING:
    from tests.chaos.system import System


def lost_reports(system: System) -> list[str]:
    """Return the jobs that a worker finished and the database does not have as finished."""
    finished = _finished(system)
    return [f"the confirmed report of job {job} is lost" for job in _confirmed(system) if job not in finished]


def rewritten(system: System) -> int:
    """Return the number of confirmed reports that were lost: the study has another, of the same job or a new one."""
    finished = _finished(system)
    return sum(times - (job in finished) for job, times in _confirmed(system).items())


def _finished(system: System) -> set[str]:
    with transaction(system.url) as session:
        return set(map(str, session.scalars(select(Job.id).where(Job.state == "finished"))))


def _confirmed(system: System) -> Counter[str]:
    """Return how often a worker finished each job."""
    found: Counter[str] = Counter()
    for name, role in system.roles.items():
        path = system.folder / f"{name}.log"
        if role == "worker" and path.exists():
            lines = (line for line in path.read_text(errors="replace").splitlines() if "attempt.finished" in line)
            found.update(line["job_id"] for line in map(json.loads, lines) if line["outcome"] == "finished")
    return found
