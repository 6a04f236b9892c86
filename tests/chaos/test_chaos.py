"""Short form of `make chaos`, and tests of single faults."""

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
from tests.chaos import planted
from tests.chaos.checker import all_ended
from tests.chaos.children import ENDLESS, HUNG, STUCK
from tests.chaos.modality import History, Modality, PlannedStudy, plan
from tests.chaos.run import run
from tests.chaos.system import running_system
from tests.long_form import size
from tests.polling import wait_until
from worker.process import SHUTDOWN_GRACE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.chaos.system import System

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(420),
    # pynetdicom, in the sending modality, forgets its socket when the listener is down.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
#: Promise: the report of a killed worker is started again within a minute.
RECOVERY_SECONDS = 60
#: For other load on the machine.
GRACE_SECONDS = 10
NO_WORKER = {"listener": "listener", "dispatcher-1": "dispatcher"}
ONE_WORKER = {**NO_WORKER, "worker-1": "worker"}
SEED = 1
#: Of `make chaos-failover`.
ASYNCHRONOUS_SEED = 2


def test_nothing_is_lost_or_written_twice_under_faults(tmp_path: Path) -> None:
    # The long form is one seed of a recorded series; `make chaos` has three times its faults.
    outcome = run(SEED, studies=size(100, 200), seconds=size(30, 60), folder=tmp_path / "system")
    assert outcome.violations == []


def test_promoted_standby_loses_nothing_acknowledged_and_work_goes_on(tmp_path: Path) -> None:
    # `make chaos-failover` has more faults; the standby is promoted among the first three.
    outcome = run(ASYNCHRONOUS_SEED, studies=40, seconds=20, folder=tmp_path / "system", failover=True)
    assert not outcome.synchronous
    assert outcome.violations == []
    assert outcome.faults["promote_standby"] > 0


def test_audit_beside_traffic_finds_every_planted_breach_and_nothing_else(tmp_path: Path) -> None:
    with running_system(tmp_path / "system", PRELIM_REPORT_IMAGES="database") as system:
        result = planted.run(system, seconds=40)
    assert (result.false, result.missed) == ([], [])
    assert result.audits > len(planted.FILES)


def test_report_of_a_killed_worker_is_restarted_within_a_minute(tmp_path: Path) -> None:
    defaults = {"PRELIM_LEASE_SECONDS": "", "PRELIM_REDELIVER_SECONDS": "", "PRELIM_DISPATCH_SECONDS": ""}
    with running_system(tmp_path / "system", ONE_WORKER, **defaults) as system:
        study = endless(plan(6, random.Random(1)))
        send(system, [study], seconds=0)
        supervise_until(system, lambda: attempts(system) == 1, 30)
        killed = time.monotonic()
        system.signal("worker-1", signal.SIGKILL)
        supervise_until(system, lambda: attempts(system) == 2, RECOVERY_SECONDS)
        assert time.monotonic() - killed < RECOVERY_SECONDS


def test_rolling_restart_under_load_costs_no_attempt(tmp_path: Path) -> None:
    with running_system(tmp_path / "system", PRELIM_LEASE_SECONDS="30", PRELIM_REDELIVER_SECONDS="5") as system:
        studies = [study for study in plan(60, random.Random(2)) if study.kind == "plain"]
        senders = send(system, studies, seconds=8)
        for name in ("worker-1", "dispatcher-1", "worker-2", "dispatcher-2", "listener"):
            system.supervise_for(1.5)
            system.signal(name, signal.SIGTERM)
        supervise_until(system, lambda: not any(s.is_alive() for s in senders) and all_ended(system, studies), 60)

        with transaction(system.url) as session:
            tries = session.execute(select(Job.state, func.max(Job.attempt)).group_by(Job.state)).all()
        # A study split by the listener's restart arrived late in part and has one job per revision.
        ends: dict[str, int] = dict(tries)  # type: ignore[arg-type]
        assert ends.pop("finished") == 1
        assert ends in ({}, {"superseded": 0}, {"superseded": 1})
        assert audit.check(system.settings) == []


@pytest.mark.parametrize(("fault", "event"), [(HUNG, "engine.stalled"), (STUCK, "attempt.hung")])
def test_worker_with_a_hung_engine_or_attempt_exits_and_the_study_fails(
    tmp_path: Path, fault: bytes, event: str
) -> None:
    changes = {"PRELIM_ENGINE_STALL_SECONDS": "2", "PRELIM_MAX_ATTEMPTS": "2"}
    with running_system(tmp_path / "system", ONE_WORKER, **changes) as system:
        studies = plain_studies(2)
        with_pixels(studies[0], fault)
        send(system, studies, seconds=0)
        supervise_until(system, lambda: all_ended(system, studies) and system.logged(event) > 0, 60)

        assert ends(system) == {studies[0].uid: ("failed", "no_progress"), studies[1].uid: ("reported", None)}


def test_worker_that_lost_its_consumer_exits_and_is_replaced(tmp_path: Path) -> None:
    with running_system(tmp_path / "system", ONE_WORKER) as system:
        control = make_app(system.settings.broker()).control
        # Its heartbeat is stored before it consumes control messages.
        supervise_until(system, lambda: bool(control.cancel_consumer(QUEUE, reply=True)), 60)
        studies = plain_studies(1)
        send(system, studies, seconds=0)
        # Polling writes the report; the message stays in Redis.
        supervise_until(system, lambda: all_ended(system, studies) and system.logged("consumer.lost") > 0, 60)

        assert ends(system) == {studies[0].uid: ("reported", None)}
        assert system.logged("consumer.lost") == 1


def test_message_received_during_a_database_outage_is_kept(tmp_path: Path) -> None:
    with running_system(tmp_path / "system", dict(NO_WORKER), PRELIM_REDELIVER_SECONDS="600") as system:
        studies = plain_studies(1)
        send(system, studies, seconds=0)
        broker = make_app(system.settings.broker())
        supervise_until(system, lambda: depth(broker) == 1, 30)
        system.postgres.stop()
        system.roles["worker-1"] = "worker"
        system.start("worker-1")
        wait_until(lambda: system.logged("database.unreachable") > 0, 60)
        system.postgres.start()
        supervise_until(system, lambda: all_ended(system, studies), 60)

        assert ends(system) == {studies[0].uid: ("reported", None)}


@pytest.mark.parametrize("remotely", [False, True])
def test_stopped_worker_requeues_unfinished_jobs_in_time(tmp_path: Path, remotely: bool) -> None:
    with running_system(tmp_path / "system", ONE_WORKER) as system:
        send(system, [endless(plan(6, random.Random(1)))], seconds=0)
        supervise_until(system, lambda: attempts(system) == 1, 30)
        stop_for_good(system, "worker-1", remotely=remotely)

        with transaction(system.url) as session:
            job = session.scalars(select(Job)).one()
        assert (job.state, job.attempt, job.owner) == ("queued", 0, None)


def test_scale_in_while_every_worker_writes_uses_up_no_attempt(tmp_path: Path) -> None:
    roles = {**ONE_WORKER, "worker-2": "worker"}
    with running_system(tmp_path / "system", roles, PRELIM_WORKER_SLOTS="2", PRELIM_LEASE_SECONDS="30") as system:
        studies = plain_studies(4)
        for study in studies:
            with_pixels(study, ENDLESS)
        send(system, studies, seconds=0)
        supervise_until(system, lambda: len(set(owners(system))) == 2 and len(owners(system)) == 4, 60)
        stop_for_good(system, "worker-2")

        with transaction(system.url) as session:
            jobs = session.execute(select(Job.state, Job.attempt).order_by(Job.state)).all()
        assert [tuple(job) for job in jobs] == [("queued", 0)] * 2 + [("running", 1)] * 2


def owners(system: System) -> list[str]:
    """Return the owner of each running job."""
    with transaction(system.url) as session:
        return [owner for owner in session.scalars(select(Job.owner).where(Job.state == "running")) if owner]


def test_stopped_worker_exits_without_a_database(tmp_path: Path) -> None:
    with running_system(tmp_path / "system", ONE_WORKER) as system:
        send(system, [endless(plan(6, random.Random(1)))], seconds=0)
        supervise_until(system, lambda: attempts(system) == 1, 30)
        system.postgres.stop()
        stop_for_good(system, "worker-1")
        system.postgres.start()


def plain_studies(count: int) -> list[PlannedStudy]:
    return [study for study in plan(60, random.Random(2)) if study.kind == "plain"][:count]


def ends(system: System) -> dict[str, tuple[str, str | None]]:
    with transaction(system.url) as session:
        rows = session.execute(select(Study.study_instance_uid, Study.state, Study.reason)).all()
    return {uid: (state, reason) for uid, state, reason in rows}


def stop_for_good(system: System, name: str, *, remotely: bool = False) -> None:
    """Send SIGTERM, or Flower's command; the process must exit within the promised time and a margin."""
    system.down.add(name)
    if remotely:
        make_app(system.settings.broker()).control.shutdown()
    else:
        system.signal(name, signal.SIGTERM)
    system.children[name].join(system.settings.operations.stop_seconds + SHUTDOWN_GRACE_SECONDS + GRACE_SECONDS)
    assert system.children[name].exitcode == 0


def send(system: System, studies: list[PlannedStudy], seconds: float) -> list[Modality]:
    modality = Modality("MODALITY", system.settings.dicom.dicom_port, studies, seconds, History())
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


def attempts(system: System) -> int:
    with transaction(system.url) as session:
        return session.scalar(select(func.max(Job.attempt)).where(Job.state == "running")) or 0


def supervise_until(system: System, condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        system.supervise_for(0.1)
