"""Simulate the queue: jobs of several priorities, claimed by workers whose slots share one GPU, none interrupted."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from db.jobs.class_share import MAX_URGENT_IN_A_ROW
from db.studies.priority import ROUTINE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOUR = 3600.0


class Arrival(NamedTuple):
    """A job: when it is queued, its priority (greater is more urgent), and the seconds that it takes alone."""

    at: float
    priority: int
    seconds: float


class Wait(NamedTuple):
    """Time that a job waited for a slot."""

    at: float
    priority: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Workers:
    """Workers of a site, and how fast they work."""

    number: int
    #: Jobs that one worker, with its GPU, runs at a time.
    slots: int
    #: A job beside k others takes 1 + k * sharing times as long as alone: 0 if they do not disturb each other, 1 if the
    #: GPU serves them in turns.
    sharing: float = 0.0
    #: Seconds from the end of a job to the claim of the next one, and from the arrival of a job to its claim by a slot
    #: that is idle; one of each is taken by chance.
    after_another: Sequence[float] = (0.0,)
    when_idle: Sequence[float] = (0.0,)
    #: When they begin to work.
    begin: float = 0.0


@dataclass(slots=True)
class _Worker:
    """A worker: jobs by the work that is done when they end, and the work done by then for each job, in seconds."""

    running: list[tuple[float, int]] = field(default_factory=list)
    done: float = 0.0
    at: float = 0.0
    urgent_in_a_row: int = 0
    #: Number of the last expected end: earlier ones are out of date.
    expected: int = 0


#: Kinds of events, in the order in which those of one moment happen.
END, CLAIM = 0, 1


class _Queue:
    """The jobs that wait, the workers, and what happens next."""

    def __init__(self, arrivals: Sequence[Arrival], workers: Workers, seed: int) -> None:
        self._arrivals, self._of = arrivals, workers
        self._chance = random.Random(seed)  # noqa: S311 - a simulation
        self._workers = [_Worker() for _ in range(workers.number)]
        #: Workers with idle slots, in turns, and how many each has: Redis wakes the client that has waited longest; a
        #: worker is one client, and waits again after each message.
        self._idle = deque(range(workers.number))
        self._idle_slots = [workers.slots] * workers.number
        self._urgent: list[tuple[int, float, int]] = []
        self._others: list[tuple[int, float, int]] = []
        #: Slots that are about to claim: as many waiting jobs are theirs, and a slot that becomes free leaves them to
        #: them. (The measured delays are those of the first claim.)
        self._claiming = 0
        #: Time, kind, worker and number of an expected end.
        self._events: list[tuple[float, int, int, int]] = []

    def run(self) -> Iterator[Wait]:
        """Yield the wait of each job, in the order of their claims."""
        following = 0
        while following < len(self._arrivals) or self._events:
            at = self._arrivals[following].at if following < len(self._arrivals) else math.inf
            if not self._events or at <= self._events[0][0]:
                self._arrive(following)
                following += 1
                continue
            now, kind, number, expected = heapq.heappop(self._events)
            if kind == CLAIM:
                job = self._next(self._workers[number])
                self._start(now, number, job)
                arrival = self._arrivals[job]
                yield Wait(arrival.at, arrival.priority, now - arrival.at)
            elif expected == self._workers[number].expected:
                self._end(now, number)

    def _arrive(self, job: int) -> None:
        arrival = self._arrivals[job]
        waiting = self._urgent if arrival.priority > ROUTINE else self._others
        heapq.heappush(waiting, (-arrival.priority, arrival.at, job))
        if self._idle:
            self._claim_later(max(arrival.at, self._of.begin), self._wake(), self._of.when_idle)

    def _idles(self, number: int) -> None:
        """Let a worker wait for a message with one slot more."""
        self._idle_slots[number] += 1
        if self._idle_slots[number] == 1:
            self._idle.append(number)

    def _wake(self) -> int:
        """Take a slot of the worker that has waited longest; return its number."""
        number = self._idle.popleft()
        self._idle_slots[number] -= 1
        if self._idle_slots[number]:
            self._idle.append(number)
        return number

    def _claim_later(self, now: float, number: int, seconds: Sequence[float]) -> None:
        self._claiming += 1
        heapq.heappush(self._events, (now + self._chance.choice(seconds), CLAIM, number, 0))

    def _next(self, worker: _Worker) -> int:
        """Take the most urgent waiting job, of equal ones the oldest; in the turn of a routine one, that."""
        self._claiming -= 1
        turn_of_others = worker.urgent_in_a_row >= MAX_URGENT_IN_A_ROW and self._others
        waiting = self._urgent if self._urgent and not turn_of_others else self._others
        worker.urgent_in_a_row = worker.urgent_in_a_row + 1 if waiting is self._urgent else 0
        return heapq.heappop(waiting)[2]

    def _start(self, now: float, number: int, job: int) -> None:
        worker = self._workers[number]
        self._work(worker, now)
        heapq.heappush(worker.running, (worker.done + self._arrivals[job].seconds, job))
        self._expect(number)

    def _end(self, now: float, number: int) -> None:
        worker = self._workers[number]
        self._work(worker, now)
        heapq.heappop(worker.running)
        self._expect(number)
        if len(self._urgent) + len(self._others) > self._claiming:
            self._claim_later(now, number, self._of.after_another)
        else:
            self._idles(number)

    def _work(self, worker: _Worker, now: float) -> None:
        if worker.running:
            worker.done += (now - worker.at) / self._slower(worker)
        worker.at = now

    def _expect(self, number: int) -> None:
        """Expect the next end of a worker whose number of jobs has changed."""
        worker = self._workers[number]
        worker.expected += 1
        if worker.running:
            left = max(worker.running[0][0] - worker.done, 0.0)
            heapq.heappush(self._events, (worker.at + left * self._slower(worker), END, number, worker.expected))

    def _slower(self, worker: _Worker) -> float:
        return 1 + self._of.sharing * (len(worker.running) - 1)


def waits(arrivals: Sequence[Arrival], workers: Workers, seed: int = 1) -> Iterator[Wait]:
    """Yield the wait of each job, in the order of their claims; *arrivals* are in order of time.

    Jobs are claimed as in db.jobs.claims and db.jobs.class_share: by priority, then by age; a fourth of the claims of
    each worker is for others than urgent jobs while such wait.
    """
    return _Queue(arrivals, workers, seed).run()


def arrivals_of_a_day(
    studies: float, hours: Sequence[float], reports: Sequence[tuple[int, float]], seed: int
) -> list[Arrival]:
    """Return the jobs of a day: independent arrivals at the rates of *hours*, whose sum is 1.

    Each takes one of *reports* by chance: a priority and the seconds that a report of it took.
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
            found.append(Arrival(at, *chance.choice(reports)))
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
