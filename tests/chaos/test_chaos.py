"""Two faults of `make chaos`, looked at more closely."""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from db.models import Job
from db.session import transaction
from deploy import audit
from tests.chaos.children import ENDLESS
from tests.chaos.house import running_house
from tests.chaos.laws import all_ended
from tests.chaos.modality import History, Modality, PlannedStudy, plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.chaos.house import House

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    # pynetdicom, in the sending modality, forgets its socket when the listener is down.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
#: The promise: a killed worker's report is begun again within a minute.
RECOVERY_SECONDS = 60


def test_a_killed_workers_report_is_begun_again_within_a_minute_by_default(tmp_path: Path) -> None:
    defaults = {"PRELIM_LEASE_SECONDS": "", "PRELIM_NUDGE_SECONDS": "", "PRELIM_DISPATCH_SECONDS": ""}
    crew = {"listener": "listener", "dispatcher-1": "dispatcher", "worker-1": "worker"}
    with running_house(tmp_path / "house", crew, **defaults) as house:
        study = endless(plan(6, random.Random(1)))
        send(house, [study], seconds=0)
        tend_until(house, lambda: attempts(house) == 1, 30)
        killed = time.monotonic()
        house.signal("worker-1", signal.SIGKILL)
        tend_until(house, lambda: attempts(house) == 2, RECOVERY_SECONDS)
        assert time.monotonic() - killed < RECOVERY_SECONDS


def test_a_rolling_restart_under_load_costs_no_report_a_try(tmp_path: Path) -> None:
    with running_house(tmp_path / "house", PRELIM_LEASE_SECONDS="30", PRELIM_NUDGE_SECONDS="5") as house:
        studies = [study for study in plan(60, random.Random(2)) if study.kind == "plain"]
        senders = send(house, studies, seconds=8)
        for name in ("worker-1", "dispatcher-1", "worker-2", "dispatcher-2", "listener"):
            house.tend_for(1.5)
            house.signal(name, signal.SIGTERM)
        tend_until(house, lambda: not any(s.is_alive() for s in senders) and all_ended(house, studies), 60)

        with transaction(house.url) as session:
            ends = session.execute(select(Job.state, Job.attempt, func.count()).group_by(Job.state, Job.attempt)).all()
        assert [tuple(row) for row in ends] == [("finished", 1, len(studies))]
        assert audit.check(house.settings) == []


def send(house: House, studies: list[PlannedStudy], seconds: float) -> list[Modality]:
    modality = Modality("MODALITY", house.settings.dicom_port, studies, seconds, History())
    modality.start()
    return [modality]


def endless(studies: list[PlannedStudy]) -> PlannedStudy:
    """A study whose report is never finished, so that its worker can be killed at it."""
    study = next(study for study in studies if study.kind == "plain")
    for dataset in study.objects().values():
        dataset.PixelData = ENDLESS.ljust(64, b".")
    return study


def attempts(house: House) -> int:
    with transaction(house.url) as session:
        return session.scalar(select(func.max(Job.attempt)).where(Job.state == "running")) or 0


def tend_until(house: House, condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        house.tend_for(0.1)
