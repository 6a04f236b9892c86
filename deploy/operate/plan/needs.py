"""Resources that a load needs: workers, disk, network, memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from deploy.operate.plan.aims import workers_needed
from deploy.operate.plan.simulation import HOUR

if TYPE_CHECKING:
    from deploy.operate.plan.load import Load

#: Objects a second of one process of the listener: a third of what its CPU time allows (0.47 ms, docs/performance.md).
OBJECTS_PER_PROCESS = 700
#: Bytes in PostgreSQL: rows of a study with its job and a report of six findings with their grounds, of an object, of a
#: row of the audit log; WAL of a study and of an object (docs/measurements/2026-11-29-plan.md).
STUDY_ROWS, OBJECT_ROWS, AUDIT_ROW, STUDY_WAL, OBJECT_WAL = 18_000, 650, 400, 27_000, 1_700
#: Reads of a study's data that are in the audit log. Assumed: lists, the page, its images, the report by the API.
READS = 10
#: Bytes of the images of a report (docs/deploy.md, Retention).
REPORT_IMAGES = 800_000
#: Minutes without the object storage for which local disk is to suffice.
AWAY_MINUTES = 10
#: Share of the disk from which routine objects are refused (PRELIM_URGENT_ONLY_DISK_PERCENT, as it is by default).
USED_SHARE = 0.9
#: GiB: limits of the compose file for a worker, and for all other services with monitoring and audit log together; and
#: the share of a machine's memory that limits may add up to.
WORKER_MEMORY, OTHER_MEMORY, MEMORY_SHARE = 24, 12, 0.9
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


def needs(load: Load, machine: Machine, retention_days: float) -> list[Need]:
    """Return each resource that the load needs, the workers first."""
    return [_workers(load, machine), *_others(load, machine, retention_days)]


def breaks_first(load: Load, machine: Machine, retention_days: float) -> Need | None:
    """Return the resource that is shortest of those that are given; None if each suffices."""
    given = [need for need in _others(load, machine, retention_days) if need.available is not None]
    if machine.workers is not None:
        given.append(_workers(load, machine))
    first = max(given, key=lambda need: need.use, default=None)
    return first if first is not None and first.use > 1 else None


def _workers(load: Load, machine: Machine) -> Need:
    return Need("workers, one of them lost", workers_needed(load) + 1, "", machine.workers)


def _others(load: Load, machine: Machine, retention_days: float) -> list[Need]:
    peak = load.studies * max(load.hours) / HOUR
    network = peak * load.bytes * 8 / 1e9
    there = None if machine.network_bits is None else machine.network_bits / 1e9
    waiting = peak * load.bytes * AWAY_MINUTES * 60
    return [
        _disk(load, machine, retention_days),
        Need("network in the busiest hour", network, "Gbit/s", there),
        Need("the same, with an object storage", 2 * network, "Gbit/s", None),
        Need(f"local disk, object storage away for {AWAY_MINUTES} min", waiting / 1e9, "GB", None),
        Need("processes of the listener", math.ceil(peak * load.objects / OBJECTS_PER_PROCESS), "", None),
        Need("memory, a worker and all else", MACHINE_MEMORY, "GiB", None),
        *_database(load, peak),
    ]


def _disk(load: Load, machine: Machine, retention_days: float) -> Need:
    needed = load.studies * load.bytes * retention_days / USED_SHARE / 1e12
    there = None if machine.disk_bytes is None else machine.disk_bytes / 1e12
    return Need(f"disk of the spool for {retention_days:g} days, {USED_SHARE:.0%} used", needed, "TB", there)


def _database(load: Load, peak: float) -> list[Need]:
    """Return the growth of PostgreSQL, what a standby receives, and what a backup copies."""
    rows = STUDY_ROWS + READS * AUDIT_ROW + OBJECT_ROWS * load.objects
    wal = STUDY_WAL + OBJECT_WAL * load.objects + REPORT_IMAGES
    year = load.studies * 365 / 1e12
    copied = load.studies * load.bytes / 1e12 + year * (rows + REPORT_IMAGES)
    return [
        Need("PostgreSQL without images of reports, a year", year * rows, "TB", None),
        Need("images of reports, a year", year * REPORT_IMAGES, "TB", None),
        Need("WAL for a standby in the busiest hour", peak * wal * 8 / 1e9, "Gbit/s", None),
        Need("a daily backup after a year", copied, "TB", None),
    ]
