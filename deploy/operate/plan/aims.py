"""Aims of the waits, and the number of workers that meets them on a simulated day."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from db.errors import NotPossible
from db.studies.priority import ROUTINE
from deploy.operate.plan.simulation import Arrival, Wait, arrivals_of_a_day, waits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deploy.operate.plan.load import Load
    from deploy.operate.plan.simulation import Workers

#: Aims: 99 % of the urgent reports, and of the others, begin within these seconds.
URGENT_SECONDS, ROUTINE_SECONDS = 30.0, 300.0
AIMED_SHARE = 0.99
#: Jobs of a simulation; of a larger day, the hours around the busiest one are simulated.
MAX_JOBS = 150_000
#: Hours before and after the busiest one that are simulated then: workers that meet the aims have no queue that lasts
#: longer.
HOURS_AROUND = 1
#: Reports of a simulated day. A larger one is planned in equal parts, each with workers of its own: together they need
#: a few more than one pool would.
MAX_JOBS_OF_PART = 500_000
SEED = 1


def workers_needed(load: Load) -> int:
    """Return the smallest number of workers that meets the aims on a simulated day.

    Raises NotPossible if none does: measured claims of idle workers alone may take longer, after an outage.
    """
    number, part = _parts(load)
    jobs = _jobs(part)
    found = smallest(lambda workers: _meets(jobs, part.workers(workers)), math.ceil(part.busy_workers), len(jobs))
    if found is None:
        raise NotPossible(
            "no number of workers meets the aims, because the measured claims of idle workers take too long: see"
            " `prelim doctor`, or plan from numbers (--studies, --reports-per-minute)"
        )
    return number * found


def simulated(load: Load, workers: int) -> list[Wait] | None:
    """Return the waits of the jobs of a day with *workers*; None for fewer workers than parts, whose queue only grows.

    Workers beyond an equal number for each part are left out.
    """
    number, part = _parts(load)
    return list(waits(_jobs(part), part.workers(workers // number))) if workers >= number else None


def _parts(load: Load) -> tuple[int, Load]:
    """Return a number of equal parts, and one of them."""
    number = math.ceil(load.jobs / MAX_JOBS_OF_PART)
    return number, load.with_studies(load.studies / number)


def _jobs(load: Load) -> list[Arrival]:
    hours = list(load.hours)
    if load.jobs > MAX_JOBS:
        busiest = hours.index(max(hours))
        around = range(busiest - HOURS_AROUND, busiest + HOURS_AROUND + 1)
        hours = [share if hour in around else 0.0 for hour, share in enumerate(hours)]
    return arrivals_of_a_day(load.jobs, hours, load.reports, SEED)


def smallest(suffices: Callable[[int], bool], guess: int, most: int) -> int | None:
    """Return the smallest number from 1 that *suffices*, by steps from *guess* that double, then by bisection.

    None if *most* does not suffice: of more workers than jobs, some have none.
    """
    low, high, step = 0, max(guess, 1), 1
    while not suffices(high):
        if high >= most:
            return None
        low, high, step = high, high + step, 2 * step
    step = 1
    while low < high - step and suffices(high - step):
        high, step = high - step, 2 * step
    low = max(low, high - step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def _meets(jobs: Sequence[Arrival], workers: Workers) -> bool:
    """Return whether the waits of each class meet its aim; the simulation ends with the first job too many."""
    number = Counter(job.priority > ROUTINE for job in jobs)
    may_be_late = {urgent: number[urgent] - math.ceil(AIMED_SHARE * number[urgent]) for urgent in (True, False)}
    for wait in waits(jobs, workers):
        urgent = wait.priority > ROUTINE
        may_be_late[urgent] -= wait.seconds >= (URGENT_SECONDS if urgent else ROUTINE_SECONDS)
        if may_be_late[urgent] < 0:
            return False
    return True
