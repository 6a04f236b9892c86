"""Simulate the queue: jobs of several priorities, served by a number of equal slots, none interrupted."""

from __future__ import annotations

import heapq
import math
import random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOUR = 3600.0


class Arrival(NamedTuple):
    """A job: when it is queued, its priority (greater is more urgent), and the seconds that it takes."""

    at: float
    priority: int
    seconds: float


class Wait(NamedTuple):
    """Time that a job waited for a slot."""

    at: float
    priority: int
    seconds: float


def waits(arrivals: Sequence[Arrival], slots: int) -> Iterator[Wait]:
    """Yield the wait of each job, in the order of their starts; *arrivals* are in order of time.

    A free slot takes the most urgent waiting job, of equal ones the oldest (db.studies.priority).
    """
    free = [0.0] * slots
    waiting: list[tuple[int, float, float]] = []
    following = 0
    while following < len(arrivals) or waiting:
        now = free[0] if waiting else max(free[0], arrivals[following].at)
        while following < len(arrivals) and arrivals[following].at <= now:
            arrival = arrivals[following]
            heapq.heappush(waiting, (-arrival.priority, arrival.at, arrival.seconds))
            following += 1
        urgency, at, seconds = heapq.heappop(waiting)
        heapq.heapreplace(free, now + seconds)
        yield Wait(at, -urgency, now - at)


def arrivals_of_a_day(
    studies: float, hours: Sequence[float], urgent_share: float, seconds: Sequence[float], seed: int
) -> list[Arrival]:
    """Return the jobs of a day: independent arrivals at the rates of *hours*, whose sum is 1.

    Each takes one of *seconds* by chance; *urgent_share* of them have the priority 1, the others 0.
    """
    chance = random.Random(seed)  # noqa: S311 - a simulation
    found = []
    for hour, share in enumerate(hours):
        rate = studies * share / HOUR
        at = hour * HOUR
        while rate:
            at += chance.expovariate(rate)
            if at >= (hour + 1) * HOUR:
                break
            found.append(Arrival(at, int(chance.random() < urgent_share), chance.choice(seconds)))
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that *share* of the values do not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else 0.0


def quantiles_by_hour(found: Sequence[Wait], share: float) -> list[tuple[int, float]]:
    """Return a quantile of the waits of the jobs queued in each hour with jobs."""
    hours: dict[int, list[float]] = {}
    for wait in found:
        hours.setdefault(int(wait.at // HOUR), []).append(wait.seconds)
    return [(hour, quantile(hours[hour], share)) for hour in sorted(hours)]
