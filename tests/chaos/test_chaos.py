"""The short form of `make chaos`, and single faults looked at more closely."""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from db.jobs.celery_app import QUEUE, depth, make_app
from db.models import Job, Study
from db.session import transaction
from deploy.operate import audit
from tests.chaos.children import ENDLESS, HUNG
from tests.chaos.house import running_house
from tests.chaos.laws import all_ended
from tests.chaos.modality import History, Modality, PlannedStudy, plan
from tests.chaos.run import run
from tests.polling import wait_until
from worker.process import SHUTDOWN_GRACE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.chaos.house import House

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(420),
    # pynetdicom, in the sending modality, forgets its socket when the listener is down.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
#: The promise: a killed worker's report is begun again within a minute.
RECOVERY_SECONDS = 60
#: For a machine that others use too.
GRACE_SECONDS = 10
NO_WORKER = {"listener": "listener", "dispatcher-1": "dispatcher"}
ONE_WORKER = {**NO_WORKER, "worker-1": "worker"}
SEED = 1


def test_nothing_is_lost_and_nothing_written_twice_while_everything_breaks(tmp_path: Path) -> None:
    outcome = run(SEED, studies=200, seconds=150, folder=tmp_path / "house")
    assert outcome.broken == []


def test_a_killed_workers_report_is_begun_again_within_a_minute_by_default(tmp_path: Path) -> None:
    defaults = {"PRELIM_LEASE_SECONDS": "", "PRELIM_REDELIVER_SECONDS": "", "PRELIM_DISPATCH_SECONDS": ""}
    with running_house(tmp_path / "house", ONE_WORKER, **defaults) as house:
        study = endless(plan(6, random.Random(1)))
        send(house, [study], seconds=0)
        tend_until(house, lambda: attempts(house) == 1, 30)
        killed = time.monotonic()
        house.signal("worker-1", signal.SIGKILL)
        tend_until(house, lambda: attempts(house) == 2, RECOVERY_SECONDS)
        assert time.monotonic() - killed < RECOVERY_SECONDS


def test_a_rolling_restart_under_load_costs_no_report_a_try(tmp_path: Path) -> None:
    with running_house(tmp_path / "house", PRELIM_LEASE_SECONDS="30", PRELIM_REDELIVER_SECONDS="5") as house:
        studies = [study for study in plan(60, random.Random(2)) if study.kind == "plain"]
        senders = send(house, studies, seconds=8)
        for name in ("worker-1", "dispatcher-1", "worker-2", "dispatcher-2", "listener"):
            house.tend_for(1.5)
            house.signal(name, signal.SIGTERM)
        tend_until(house, lambda: not any(s.is_alive() for s in senders) and all_ended(house, studies), 60)

        with transaction(house.url) as session:
            tries = session.execute(select(Job.state, func.max(Job.attempt)).group_by(Job.state)).all()
        # What the listener's restart parted in two came late, and has a job for each of its revisions.
        ends: dict[str, int] = dict(tries)  # type: ignore[arg-type]
        assert ends.pop("finished") == 1
        assert ends in ({}, {"superseded": 0}, {"superseded": 1})
        assert audit.check(house.settings) == []


def test_a_worker_whose_engine_hangs_leaves_and_the_study_fails_with_the_reason(tmp_path: Path) -> None:
    changes = {"PRELIM_ENGINE_STALL_SECONDS": "2", "PRELIM_MAX_ATTEMPTS": "2"}
    with running_house(tmp_path / "house", ONE_WORKER, **changes) as house:
        studies = plain_studies(2)
        with_pixels(studies[0], HUNG)
        send(house, studies, seconds=0)
        tend_until(house, lambda: all_ended(house, studies), 60)

        assert ends(house) == {studies[0].uid: ("failed", "worker_lost"), studies[1].uid: ("reported", None)}
        assert house.logged("engine.stalled") >= 1


def test_a_worker_that_no_longer_hears_leaves_and_a_new_one_writes_the_report(tmp_path: Path) -> None:
    with running_house(tmp_path / "house", ONE_WORKER) as house:
        control = make_app(house.settings.broker()).control
        # Its sign of life comes before it listens to anybody.
        tend_until(house, lambda: bool(control.cancel_consumer(QUEUE, reply=True)), 60)
        studies = plain_studies(1)
        send(house, studies, seconds=0)
        tend_until(house, lambda: all_ended(house, studies), 60)

        assert ends(house) == {studies[0].uid: ("reported", None)}
        assert house.logged("consumer.lost") == 1


def test_a_message_heard_while_the_database_is_away_is_not_used_up(tmp_path: Path) -> None:
    with running_house(tmp_path / "house", dict(NO_WORKER), PRELIM_REDELIVER_SECONDS="600") as house:
        studies = plain_studies(1)
        send(house, studies, seconds=0)
        broker = make_app(house.settings.broker())
        tend_until(house, lambda: depth(broker) == 1, 30)
        house.postgres.stop()
        house.crew["worker-1"] = "worker"
        house.start("worker-1")
        wait_until(lambda: house.logged("database.unreachable") > 0, 60)
        house.postgres.start()
        tend_until(house, lambda: all_ended(house, studies), 60)

        assert ends(house) == {studies[0].uid: ("reported", None)}


def test_a_worker_told_to_stop_gives_back_in_time_what_it_cannot_finish(tmp_path: Path) -> None:
    with running_house(tmp_path / "house", ONE_WORKER) as house:
        send(house, [endless(plan(6, random.Random(1)))], seconds=0)
        tend_until(house, lambda: attempts(house) == 1, 30)
        stop_for_good(house, "worker-1")

        with transaction(house.url) as session:
            job = session.scalars(select(Job)).one()
        assert (job.state, job.attempt, job.owner) == ("queued", 0, None)


def test_a_worker_told_to_stop_leaves_although_the_database_is_gone(tmp_path: Path) -> None:
    with running_house(tmp_path / "house", ONE_WORKER) as house:
        send(house, [endless(plan(6, random.Random(1)))], seconds=0)
        tend_until(house, lambda: attempts(house) == 1, 30)
        house.postgres.stop()
        stop_for_good(house, "worker-1")
        house.postgres.start()


def plain_studies(count: int) -> list[PlannedStudy]:
    return [study for study in plan(60, random.Random(2)) if study.kind == "plain"][:count]


def ends(house: House) -> dict[str, tuple[str, str | None]]:
    with transaction(house.url) as session:
        rows = session.execute(select(Study.study_instance_uid, Study.state, Study.reason)).all()
    return {uid: (state, reason) for uid, state, reason in rows}


def stop_for_good(house: House, name: str) -> None:
    """SIGTERM; the process must be gone in the time that it promises, and soon after."""
    house.down.add(name)
    house.signal(name, signal.SIGTERM)
    house.children[name].join(house.settings.operations.stop_seconds + SHUTDOWN_GRACE_SECONDS + GRACE_SECONDS)
    assert house.children[name].exitcode == 0


def send(house: House, studies: list[PlannedStudy], seconds: float) -> list[Modality]:
    modality = Modality("MODALITY", house.settings.dicom.dicom_port, studies, seconds, History())
    modality.start()
    return [modality]


def endless(studies: list[PlannedStudy]) -> PlannedStudy:
    """A study whose report is never finished, so that its worker can be killed at it."""
    study = next(study for study in studies if study.kind == "plain")
    with_pixels(study, ENDLESS)
    return study


def with_pixels(study: PlannedStudy, word: bytes) -> None:
    for dataset in study.objects().values():
        dataset.PixelData = word.ljust(64, b".")


def attempts(house: House) -> int:
    with transaction(house.url) as session:
        return session.scalar(select(func.max(Job.attempt)).where(Job.state == "running")) or 0


def tend_until(house: House, condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        house.tend_for(0.1)
