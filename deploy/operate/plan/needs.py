"""Resources that a load needs: workers that meet the aims of the waits, disk, network, memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from deploy.operate.plan.simulation import HOUR, Wait, arrivals_of_a_day, quantile, waits

if TYPE_CHECKING:
    from deploy.operate.plan.load import Load

#: Aims: 99 % of the urgent reports, and of the others, begin within these seconds.
URGENT_SECONDS, ROUTINE_SECONDS = 30.0, 300.0
#: Jobs of a simulation; of a larger day, the hours around the busiest one are simulated.
MAX_JOBS = 150_000
#: Hours before and after the busiest one that are simulated then: workers that meet the aims have no queue that lasts
#: longer.
HOURS_AROUND = 1
#: Objects a second of one process of the listener: a third of what its CPU time allows (0.47 ms, docs/performance.md).
OBJECTS_PER_PROCESS = 700
#: Bytes in PostgreSQL of a study and of each object of it (docs/deploy.md, Retention), and of the images of a report.
STUDY_ROWS, OBJECT_ROWS, REPORT_IMAGES = 4_000, 600, 800_000
#: GiB: limits of the compose file for a worker, and for all other services with monitoring and audit log together; and
#: the share of a machine's memory that limits may add up to.
WORKER_MEMORY, OTHER_MEMORY, MEMORY_SHARE = 24, 12, 0.9
SEED = 1
MACHINE_MEMORY = math.ceil((WORKER_MEMORY + OTHER_MEMORY) / MEMORY_SHARE)


@dataclass(frozen=True, slots=True)
class Machine:
    """Resources that a site has; None: any number."""

    workers: int | None = None
    disk_bytes: float | None = None
    network_bits: float | None = None


class Need(NamedTuple):
    """A resource: how much is needed, in a unit, and how much there is."""

    name: str
    needed: float
    unit: str
    available: float | None

    @property
    def use(self) -> float:
        """Share of what is available; 0 if any amount is."""
        return 0.0 if self.available is None else self.needed / self.available


def workers_needed(load: Load) -> int:
    """Return the smallest number of workers that meets the aims on a simulated day, by bisection."""
    low, high = 0, max(math.ceil(2 * load.busy_workers), 1)
    while not _meets(simulated(load, high)):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _meets(simulated(load, middle)) else (middle, high)
    return high


def simulated(load: Load, workers: int) -> list[Wait]:
    """Return the waits of the jobs of a day with *workers*."""
    hours = list(load.hours)
    if load.studies > MAX_JOBS:
        busiest = hours.index(max(hours))
        around = range(busiest - HOURS_AROUND, busiest + HOURS_AROUND + 1)
        hours = [share if hour in around else 0.0 for hour, share in enumerate(hours)]
    jobs = arrivals_of_a_day(load.studies, hours, load.urgent_share, load.seconds, SEED)
    return list(waits(jobs, load.workers(workers)))


def _meets(found: list[Wait]) -> bool:
    aims = ((1, URGENT_SECONDS), (0, ROUTINE_SECONDS))
    return all(quantile([w.seconds for w in found if w.priority == level], 0.99) < aim for level, aim in aims)


def needs(load: Load, machine: Machine, retention_days: float) -> list[Need]:
    """Return each resource that the load needs; workers with one of them lost."""
    peak = load.studies * max(load.hours) / HOUR
    rows = STUDY_ROWS + OBJECT_ROWS * load.objects + REPORT_IMAGES
    return [
        Need("workers, one of them lost", workers_needed(load) + 1, "", machine.workers),
        Need(
            f"disk of the spool for {retention_days:g} days",
            load.studies * load.bytes * retention_days / 1e12,
            "TB",
            None if machine.disk_bytes is None else machine.disk_bytes / 1e12,
        ),
        Need(
            "network in the busiest hour",
            peak * load.bytes * 8 / 1e9,
            "Gbit/s",
            None if machine.network_bits is None else machine.network_bits / 1e9,
        ),
        Need("processes of the listener", math.ceil(peak * load.objects / OBJECTS_PER_PROCESS), "", None),
        Need("memory, a worker and all else", MACHINE_MEMORY, "GiB", None),
        Need("PostgreSQL, with images of reports, a year", load.studies * 365 * rows / 1e12, "TB", None),
    ]
