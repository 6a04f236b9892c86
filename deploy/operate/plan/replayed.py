"""Replay jobs that were measured on simulated workers, and compare the waits of each priority."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from db.studies.priority import LEVELS
from deploy.operate.plan.simulation import quantile, waits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from deploy.operate.plan.load import Measured

#: Replays: the delays of claims are drawn by chance, and a single order of claims decides the waits of few jobs.
REPLAYS = 20
#: Compared quantile of the waits.
SHARE = 0.95
#: Jobs of a class from which a difference counts: of 100, the five longest waits are beyond the quantile.
MIN_JOBS = 100
ALL = "ALL"
NAMES = {level: name for name, level in LEVELS.items() if name != "MEDIUM"}


class Compared(NamedTuple):
    """The 95 % wait of the jobs of a class, in seconds: as measured, the median of the replays, and their range."""

    jobs: int
    measured: float
    simulated: float
    lowest: float
    highest: float

    @property
    def is_certain(self) -> bool:
        """Return whether there are enough jobs to judge by."""
        return self.jobs >= MIN_JOBS


def compare(measured: Measured) -> dict[str, Compared]:
    """Return the comparison of all jobs, then of each priority with jobs, the most urgent first, by name."""
    replays = [
        _by_class((wait.priority, wait.seconds) for wait in waits(measured.jobs, measured.workers, seed))
        for seed in range(REPLAYS)
    ]
    real = _by_class(zip((job.priority for job in measured.jobs), measured.waits, strict=True))
    return {name: _compared(seconds, [each[name] for each in replays]) for name, seconds in real.items()}


def _by_class(found: Iterable[tuple[int, float]]) -> Mapping[str, list[float]]:
    """Return the waits of all jobs and of each class."""
    classes: dict[int, list[float]] = {}
    for priority, seconds in found:
        classes.setdefault(priority, []).append(seconds)
    every = [seconds for each in classes.values() for seconds in each]
    return {ALL: every} | {NAMES[level]: classes[level] for level in sorted(classes, reverse=True)}


def _compared(real: Sequence[float], replays: Sequence[Sequence[float]]) -> Compared:
    found = sorted(quantile(seconds, SHARE) for seconds in replays)
    return Compared(len(real), quantile(real, SHARE), quantile(found, 0.5), found[0], found[-1])
