"""Run one seed: modalities send, the nemesis injects faults, all studies end, the checker runs."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from tests.chaos import checker
from tests.chaos.failover.faults import ReplicaFaults
from tests.chaos.failover.lost_commits import lost_reports, rewritten
from tests.chaos.modality import KINDS, PIXELS, History, Modality, PlannedStudy, plan
from tests.chaos.nemesis import Nemesis
from tests.chaos.system import System, replicated, running_system, single

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping
    from pathlib import Path

MODALITIES = 2
#: Where the reports of a run store their images, and the processes of its listener, by the seed.
VARIANTS = (("database", 1), ("files", 2), ("database", 2), ("files", 1))
#: With replicas, no study damages its worker: the seconds until work goes on are those of the servers. Longer leases,
#: because commits wait for more.
HARMLESS = {kind: weight for kind, weight in KINDS.items() if kind not in PIXELS}
LEASE_SECONDS = "5"
#: Seconds between two faults.
BETWEEN_FAULTS = (0.3, 1.5)
#: Seconds from the last fault and the last object until all studies must have ended: the longest quiet time of a
#: second revision, three leases for each poison study one after the other, restarts, and other load on the machine.
RECOVERY_SECONDS = 150


@dataclass(frozen=True)
class Outcome:
    """Counts and violations of a run."""

    seed: int
    studies: int
    acknowledged: int
    unanswered: int
    refused: int
    faults: Counter[str]
    dropped_results: int
    rescues: int
    requeued: int
    collateral_failures: int
    #: From the last fault and the last object sent to the end of the last study.
    recovery_seconds: float
    seconds: float
    largest_bytes: int
    violations: list[str]
    #: With a standby: whether a commit waits for it, what was written again, the seconds until work went on by fault.
    synchronous: bool = False
    rewritten: int = 0
    recoveries: Mapping[str, list[float]] = field(default_factory=dict)


def run(seed: int, studies: int, seconds: float, folder: Path, *, failover: bool = False) -> Outcome:
    """Run *seed* with *studies* studies sent over *seconds*, in *folder*; with *failover*, on servers with replicas."""
    rng = random.Random(seed)
    planned = plan(studies, rng, HARMLESS if failover else KINDS)
    began = time.monotonic()
    place, number = VARIANTS[seed % len(VARIANTS)]
    changes = {"PRELIM_REPORT_IMAGES": place, "PRELIM_LISTENER_PROCESSES": str(number)}
    synchronous = is_synchronous(seed)
    started = partial(replicated, synchronous=synchronous) if failover else single
    if failover:
        changes["PRELIM_LEASE_SECONDS"] = LEASE_SECONDS
    with running_system(folder, started=started, **changes) as system:
        checker.record_transitions(system)
        history, system.planned = History(), planned
        modalities = _modalities(system, planned, seconds, history)
        replica_faults = ReplicaFaults(lambda: any(modality.is_alive() for modality in modalities))
        if failover:
            nemesis = Nemesis(system, rng, replica_faults.all(rng), first=replica_faults.first(rng))
        else:
            nemesis = Nemesis(system, rng)
        _send_and_inject(system, modalities, seconds, nemesis, rng)
        _resend(system, history)
        recovery = _recover(system, planned)
        lost = lost_reports(system) if failover and synchronous else []
        return Outcome(
            seed=seed,
            studies=studies,
            acknowledged=len(history.acknowledged),
            unanswered=history.unanswered,
            refused=sum(history.refused.values()),
            faults=nemesis.injected,
            dropped_results=system.logged("result.dropped"),
            rescues=system.logged("jobs.rescued"),
            requeued=system.logged("jobs.given_back"),
            collateral_failures=checker.collateral_failures(system, planned),
            recovery_seconds=recovery,
            seconds=time.monotonic() - began,
            largest_bytes=max(system.memory.values()),
            violations=checker.violations(system, planned, history) + replica_faults.recoveries.violations() + lost,
            synchronous=synchronous,
            rewritten=rewritten(system),
            recoveries=replica_faults.recoveries.seconds,
        )


def is_synchronous(seed: int) -> bool:
    """Return whether a commit waits for the standby: in half of the seeds of each variant."""
    return bool((seed // len(VARIANTS) + seed) % 2)


def _modalities(system: System, planned: list[PlannedStudy], seconds: float, history: History) -> list[Modality]:
    port = system.settings.dicom.dicom_port
    return [Modality(f"MODALITY_{n}", port, planned[n::MODALITIES], seconds, history) for n in range(MODALITIES)]


def _send_and_inject(
    system: System, modalities: list[Modality], seconds: float, nemesis: Nemesis, rng: random.Random
) -> None:
    for modality in modalities:
        modality.start()
    ends = time.monotonic() + seconds
    # On a busy machine the first of them may take all the time.
    while time.monotonic() < ends or nemesis.first_are_left:
        system.supervise_for(rng.uniform(*BETWEEN_FAULTS))
        nemesis.inject()
    while any(modality.is_alive() for modality in modalities):
        system.supervise_for(0.2)


def _resend(system: System, history: History) -> None:
    """Send the objects again whose files were damaged."""
    again = [
        PlannedStudy(study.kind, study.uid, [(0.0, objects)])
        for study in system.planned
        if (objects := [dataset for uid, dataset in study.objects().items() if uid in system.to_resend])
    ]
    modality = Modality("REPAIR", system.settings.dicom.dicom_port, again, 0, history)
    modality.start()
    while modality.is_alive():
        system.supervise_for(0.2)


def _recover(system: System, planned: list[PlannedStudy]) -> float:
    began = time.monotonic()
    while not checker.all_ended(system, planned) and time.monotonic() - began < RECOVERY_SECONDS:
        system.supervise_for(0.2)
    return time.monotonic() - began
