"""A worker whose GPU is lost exits at once; its job is begun again elsewhere, and an alarm names the host."""

from __future__ import annotations

import math
import multiprocessing
import socket
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, text

from db.errors import Reason, TransientFailure
from db.jobs.celery_app import make_app
from db.models import Job
from db.operations import alarms, heartbeats
from db.session import engine, transaction
from tests.integration.db.jobs.test_claims import DRAFT
from tests.polling import wait_until
from worker import process
from worker.claim_loop import ClaimLoop

if TYPE_CHECKING:
    from db.reports.versions import Draft
    from db.settings import Settings
    from tests.integration.db.conftest import Arrivals

SECONDS = 20


class LostGpu:
    """Has the engine's answers after its device was lost, from the first request on."""

    lost = False

    @property
    def info(self) -> dict[str, Any]:
        return {"gpu_lost": self.lost}

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
        heartbeats.record(session, heartbeats.Role.WORKER, {}, process=f"{socket.gethostname()}:0")
    assert "gpu_lost" not in codes(settings)
    engine(settings.database()).dispose()
