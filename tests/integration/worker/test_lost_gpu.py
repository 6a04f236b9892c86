"""A worker whose GPU is lost exits at once; its job is begun again elsewhere, and an alarm names the host."""

from __future__ import annotations

import math
import multiprocessing
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text

from db.errors import Reason, TransientFailure
from db.jobs import lost_gpus
from db.jobs.celery_app import make_app
from db.models import Job
from db.operations import alarms, heartbeats
from db.session import engine, transaction
from deploy.cli import app
from tests.integration.db.jobs.test_claims import DRAFT
from tests.polling import wait_until
from worker import process
from worker.claim_loop import ClaimLoop

if TYPE_CHECKING:
    from db.reports.versions import Draft
    from db.settings import Settings
    from tests.integration.db.conftest import Arrivals

#: For a process to import the worker's modules beside other load, and to end.
SECONDS = 60


GPU = "GPU-30a3b1f2-0c55-4f0e-9d3e-6a1f4c1f7a11"
OTHER = "GPU-77b0c1d2-1111-2222-3333-444455556666"


class LostGpu:
    """Has the engine's answers after its device was lost, from the first request on."""

    lost = False

    @property
    def info(self) -> dict[str, Any]:
        return {"gpu_lost": self.lost, "gpus": [GPU]}

    @property
    def stalled_seconds(self) -> float:
        return math.inf if self.lost else 0.0

    def write(self, *_: object) -> Draft:
        LostGpu.lost = True
        raise TransientFailure(Reason.GPU_LOST, "the worker's GPU stopped computing")


def work(settings: Settings) -> None:
    process.POLL_SECONDS, process.OVERDUE_SECONDS = 0.05, 0.0
    process.Worker(settings, lambda _: LostGpu(), make_app("redis://127.0.0.1:1/0")).load()
    time.sleep(SECONDS)


def codes(settings: Settings) -> set[str]:
    with transaction(settings.database()) as session:
        return {alarm.code for alarm in alarms.raised(session, settings)}


def test_job_of_a_lost_gpu_is_begun_again_elsewhere_and_raises_an_alarm(arrivals: Arrivals, settings: Settings) -> None:
    settings = settings.replace(retry_seconds=0.1, worker_slots=2)
    for _ in range(5):
        other = type(arrivals)(arrivals.url)
        other.image()
        other.settle()
    worker = multiprocessing.get_context("spawn").Process(target=work, args=(settings,), daemon=True)
    worker.start()
    worker.join(SECONDS)

    assert worker.exitcode == process.EXIT_STALLED
    with transaction(settings.database()) as session:
        jobs = session.scalars(select(Job).order_by(Job.attempt)).all()
        assert [job.state for job in jobs] == ["queued"] * len(jobs)
        assert 1 <= sum(job.attempt for job in jobs) <= settings.queue.worker_slots < len(jobs), "no other was claimed"
        assert jobs[-1].reason == Reason.GPU_LOST
    assert "gpu_lost" in codes(settings)
    loop = ClaimLoop(settings)
    wait_until(lambda: loop.run_once(lambda *_: DRAFT) is not None, SECONDS)
    while loop.run_once(lambda *_: DRAFT):
        pass
    with transaction(settings.database()) as session:
        assert set(session.scalars(text("SELECT state FROM studies"))) == {"reported"}
    begin(settings, [OTHER])
    assert "gpu_lost" in codes(settings), "a worker with another GPU of this host"
    begin(settings, [])
    assert "gpu_lost" in codes(settings), "a worker on the CPU of this host"
    begin(settings, [OTHER, GPU])
    assert "gpu_lost" not in codes(settings)
    engine(settings.database()).dispose()


def begin(settings: Settings, gpus: list[str], name: str = "", *, begins: bool = True) -> None:
    """Record the first heartbeat of a worker, in the container of the lost one unless it has a *name*."""
    name = name or f"{socket.gethostname()}:1"
    heartbeat(settings, name, {"gpus": gpus}, begins=begins)


def heartbeat(settings: Settings, name: str, info: dict[str, Any], *, begins: bool = False) -> None:
    with transaction(settings.database()) as session:
        heartbeats.record(session, heartbeats.Role.WORKER, info, process=name)
        lost_gpus.record(session, name, info, begins=begins)


def sentence(settings: Settings) -> str:
    with transaction(settings.database()) as session:
        return next((alarm.detail for alarm in alarms.raised(session, settings) if alarm.code == "gpu_lost"), "")


def test_lost_gpu_is_named_until_a_worker_begins_with_it_wherever_that_is(settings: Settings) -> None:
    heartbeat(settings, "gpu-1:1", {"gpus": [GPU], "gpu_lost": True})
    heartbeat(settings, "gpu-2:1", {"gpus": [OTHER], "gpu_lost": True})
    assert f"on gpu-1 ({GPU}), gpu-2 ({OTHER}):" in sentence(settings)

    begin(settings, [GPU], "gpu-1:2", begins=False)
    assert GPU in sentence(settings), "a worker that shares the GPU, and began before"
    begin(settings, [GPU], "another-pod-on-the-same-machine:1")
    assert f"on gpu-2 ({OTHER}):" in sentence(settings)
    heartbeat(settings, "gpu-2:1", {"gpus": []}, begins=True)
    assert OTHER in sentence(settings), "its container started again, on the CPU"


def test_loss_does_not_end_with_time(settings: Settings) -> None:
    heartbeat(settings, "gpu-1:1", {"gpus": [GPU], "gpu_lost": True})
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE lost_gpus SET lost_at = lost_at - interval '9 days'"))
        session.execute(text("DELETE FROM processes"))
    assert GPU in sentence(settings)


def test_removal_of_a_lost_gpu_ends_its_alarm_and_no_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRELIM_DATABASE_URL", settings.database())
    heartbeat(settings, "gpu-1:1", {"gpus": [GPU], "gpu_lost": True})
    heartbeat(settings, "gpu-1:2", {"gpus": [OTHER], "gpu_lost": True})

    def removed(gpu: str) -> int | str | None:
        monkeypatch.setattr("sys.argv", ["prelim", "gpu-removed", gpu])
        with pytest.raises(SystemExit) as ended:
            app.main()
        return ended.value.code

    assert removed("GPU-0") == 2
    error = capsys.readouterr().err
    assert GPU in error
    assert OTHER in error
    assert removed(GPU) == 0
    assert f"on gpu-1 ({OTHER}):" in sentence(settings)
    assert removed(OTHER) == 0
    assert sentence(settings) == ""


def test_loss_of_an_unknown_gpu_ends_only_by_its_removal(settings: Settings) -> None:
    heartbeat(settings, "gpu-1:7", {"gpus": [], "gpu_lost": True})
    begin(settings, [OTHER], "gpu-1:8")
    assert "on gpu-1 (gpu-1:7):" in sentence(settings)
    with transaction(settings.database()) as session:
        assert lost_gpus.remove(session, "gpu-1:7")
    assert sentence(settings) == ""
