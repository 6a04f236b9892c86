"""Read from the times of ended jobs how fast workers are: alone, beside others, and between two jobs."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Jobs that begin beside the same number of others, and such numbers, from which it is known how jobs disturb each
#: other.
MIN_JOBS, MIN_NUMBERS = 20, 2
#: Halvings of the interval in which that is searched: to a hundredth.
BISECTIONS = 8


class Ended(NamedTuple):
    """A job that has ended; times in seconds since 1970."""

    owner: str
    #: It could be claimed.
    at: float
    priority: int
    claimed: float
    finished: float
    #: It was a report of a study, no inquiry and no canary.
    is_report: bool


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed of workers, as in simulation.Workers."""

    sharing: float
    #: False if too few jobs began beside different numbers of others: *sharing* is assumed then.
    is_known: bool
    after_another: Sequence[float]
    when_idle: Sequence[float]


#: Of workers that are given as numbers: with all slots busy.
NO_DELAYS = Speed(sharing=0.0, is_known=True, after_another=[0.0], when_idle=[0.0])


def speed_of(jobs: Sequence[Ended], slots: int, begin: float) -> Speed:
    """Return the speed of workers with *slots* each, which have run since *begin*."""
    sharing = _sharing(jobs)
    after_another, when_idle = _delays(jobs, slots, begin)
    return Speed(
        _assumed_sharing(jobs, slots) if sharing is None else sharing,
        sharing is not None,
        after_another or when_idle or [0.0],
        when_idle or after_another or [0.0],
    )


def seconds_alone(jobs: Sequence[Ended], sharing: float) -> list[float]:
    """Return the seconds that each job would have taken alone on its worker."""
    alone = [0.0] * len(jobs)
    for events in _events(jobs):
        done, last, running = 0.0, 0.0, 0
        for at, change, job in events:
            done += (at - last) / (1 + sharing * (running - 1)) if running else 0.0
            last, running = at, running + change
            alone[job] -= change * done
    return alone


def _sharing(jobs: Sequence[Ended]) -> float | None:
    """Return how much longer a job takes for each other one beside it, of the time that it takes alone; None: unknown.

    What a job would take alone does not depend on the number of jobs that ran when it was claimed: with the right value
    the two are not correlated. (The time beside others itself is longer for longer jobs, and shows nothing.)
    """
    beside = _running_at_claim(jobs)
    if sum(count >= MIN_JOBS for count in Counter(beside).values()) < MIN_NUMBERS:
        return None
    mean = sum(beside) / len(beside)

    def correlates(sharing: float) -> bool:
        alone = seconds_alone(jobs, sharing)
        return sum((number - mean) * seconds for number, seconds in zip(beside, alone, strict=True)) > 0

    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if correlates(middle) else (low, middle)
    return round((low + high) / 2, 2)


def _running_at_claim(jobs: Sequence[Ended]) -> list[int]:
    found = [0] * len(jobs)
    for events in _events(jobs):
        running = 0
        for _, change, job in events:
            if change > 0:
                found[job] = running
            running += change
    return found


def _assumed_sharing(jobs: Sequence[Ended], slots: int) -> float:
    """Return 0 if most jobs filled their worker, so that their times hold for a busy one; else the worst: 1."""
    full = sum(running + 1 >= slots for running in _running_at_claim(jobs))
    return 0.0 if full > len(jobs) / 2 else 1.0


def _delays(jobs: Sequence[Ended], slots: int, begin: float) -> tuple[list[float], list[float]]:
    """Return the seconds to a claim since a slot's last job ended, and since the arrival if a slot was idle then.

    Slots count as those of one worker: the one that has been free for longest claims. Only jobs claimed since *begin*
    count: the slots of earlier workers would seem to be free. A claim beyond the slots, of a job without a message,
    takes none, and its end frees none.
    """
    after_another: list[float] = []
    when_idle: list[float] = []
    since_begin = [job for job in jobs if job.claimed >= begin]
    free = deque([begin] * (slots * len({job.owner for job in since_begin})))
    beyond = 0
    for at, change, number in sorted(chain.from_iterable(_events(since_begin))):
        if change < 0 and beyond:
            beyond -= 1
        elif change < 0:
            free.append(at)
        elif free:
            since, queued = free.popleft(), since_begin[number].at
            found = after_another if since > queued else when_idle
            found.append(at - max(since, queued))
        else:
            beyond += 1
    return after_another, when_idle


def _events(jobs: Sequence[Ended]) -> Iterable[list[tuple[float, int, int]]]:
    """Return the claims (1) and ends (-1) of each worker in the order of time, ends first, each with its job."""
    found = defaultdict[str, list[tuple[float, int, int]]](list)
    for number, job in enumerate(jobs):
        found[job.owner] += [(job.claimed, 1, number), (job.finished, -1, number)]
    return [sorted(events) for events in found.values()]
