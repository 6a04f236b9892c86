"""One chaos run: modalities send, the nemesis strikes, everything comes to its end, the laws are checked."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.chaos import laws
from tests.chaos.house import House, running_house
from tests.chaos.modality import History, Modality, PlannedStudy, plan
from tests.chaos.nemesis import Nemesis

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

MODALITIES = 2
#: Seconds between two faults.
BETWEEN_FAULTS = (0.3, 1.5)
#: Seconds after the last fault and the last object until all must be done: the longest quiet time of a second
#: revision, three leases for each poison study, restarts, and a machine that others use too.
RECOVERY_SECONDS = 90


@dataclass(frozen=True)
class Outcome:
    """What a run showed."""

    seed: int
    studies: int
    acknowledged: int
    unanswered: int
    refused: int
    faults: Counter[str]
    dropped_results: int
    rescues: int
    given_back: int
    innocents_failed: int
    #: From the last fault and the last object sent to the end of the last study.
    recovery_seconds: float
    seconds: float
    largest_bytes: int
    broken: list[str]


def run(seed: int, studies: int, seconds: float, folder: Path) -> Outcome:
    """Play *seed* with *studies* studies sent over *seconds*, in *folder*."""
    rng = random.Random(seed)
    planned = plan(studies, rng)
    began = time.monotonic()
    with running_house(folder) as house:
        laws.record_transitions(house)
        history, nemesis = History(), Nemesis(house, rng)
        _send_and_strike(house, planned, seconds, history, nemesis, rng)
        recovery = _recover(house, planned)
        return Outcome(
            seed=seed,
            studies=studies,
            acknowledged=len(history.acknowledged),
            unanswered=history.unanswered,
            refused=sum(history.refused.values()),
            faults=nemesis.struck,
            dropped_results=house.logged("result.dropped"),
            rescues=house.logged("jobs.rescued"),
            given_back=house.logged("jobs.given_back"),
            innocents_failed=laws.innocents_failed(house, planned),
            recovery_seconds=recovery,
            seconds=time.monotonic() - began,
            largest_bytes=max(house.memory.values()),
            broken=laws.broken(house, planned, history),
        )


def _send_and_strike(
    house: House, planned: list[PlannedStudy], seconds: float, history: History, nemesis: Nemesis, rng: random.Random
) -> None:
    port = house.settings.dicom.dicom_port
    modalities = [Modality(f"MODALITY_{n}", port, planned[n::MODALITIES], seconds, history) for n in range(MODALITIES)]
    for modality in modalities:
        modality.start()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        house.tend_for(rng.uniform(*BETWEEN_FAULTS))
        nemesis.strike()
    while any(modality.is_alive() for modality in modalities):
        house.tend_for(0.2)


def _recover(house: House, planned: list[PlannedStudy]) -> float:
    began = time.monotonic()
    while not laws.all_ended(house, planned) and time.monotonic() - began < RECOVERY_SECONDS:
        house.tend_for(0.2)
    return time.monotonic() - began
