"""`make bench-queue`: what the queue costs, beside plain Celery and a bare SKIP LOCKED loop in the same run.

Overhead: from the commit that queues a job to the call of the engine, on an idle system, through the dispatcher, Redis,
a Celery worker and the claim. Drain: jobs a second with an engine that does nothing, each made durable and fenced.
The three systems take turns, so that a busy machine is unfair to all of them alike.
"""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import redis
from celery import Celery
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from db import logs
from db.environment import load_settings
from db.jobs.celery_app import QUEUE
from db.migrations.upgrade import migrate
from db.operations import heartbeats
from db.reports.versions import Draft
from db.session import transaction
from db.studies import lifecycle, settling
from deploy.embedded.postgres import Postgres
from deploy.embedded.redis import Redis
from dicom_listener import dispatch
from worker.process import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from db.settings import Settings
    from worker.pipeline.pipeline import StudyToReport

JOBS = 500
ROUNDS = 3
IDLE_JOBS = 50
THREADS = 8
#: Milliseconds between two jobs of the idle measurement: nothing is left of the one before.
IDLE_PAUSE_SECONDS = 0.1
DONE_SECONDS = 120
#: Between two looks whether the queue is empty: seldom enough to cost those that are measured nothing.
LOOK_SECONDS = 0.02
PLAIN_QUEUE = "plain"
#: Where kombu keeps what a worker has taken and not begun.
TAKEN_MESSAGES = "unacked"
DRAFT = Draft("No effusion.", "Normal.", "1 of 1 images", "bench", "0" * 64, {})


class NoOp:
    """An engine that does nothing; notes in Redis when it was asked."""

    stalled_seconds = 0.0

    def __init__(self, settings: Settings) -> None:
        self.info = {"slots": settings.queue.worker_slots}
        self._redis = redis.Redis.from_url(settings.broker())

    def write(self, study: StudyToReport, _on_progress: Callable[[], None]) -> Draft:
        self._redis.rpush("asked", f"{study.study_hash} {time.time()}")
        return DRAFT


def run_worker(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    settings = load_settings()
    logs.configure(settings)
    build(settings, NoOp).worker_main(words())


def run_dispatcher(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    dispatch.run(load_settings())


def run_plain(broker: str) -> None:
    plain_app(broker).worker_main(words())


def words() -> list[str]:
    return ["worker", "--pool=threads", f"--concurrency={THREADS}", "--loglevel=error", "--without-mingle"]


def plain_app(broker: str) -> Celery:
    """Celery as its users set it up to lose less: late acknowledgement, one message at a time."""
    app = Celery("plain", broker=broker, set_as_current=False)
    app.conf.update(
        task_default_queue=PLAIN_QUEUE, task_acks_late=True, worker_prefetch_multiplier=1, task_ignore_result=True
    )
    client = redis.Redis.from_url(broker)

    def noop(_number: int) -> None:
        client.incr("plain-done")

    app.task(name="noop")(noop)
    return app


@contextmanager
def child(target: Callable[..., None], argument: Any) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=target, args=(argument,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def queue_jobs(url: str, count: int) -> list[str]:
    """Settled studies with one image each, in one commit; their hashes in the order of the queue."""
    uids = [f"2.25.{uuid.uuid4().int}" for _ in range(count)]
    with transaction(url) as session:
        for uid in uids:
            lifecycle.record_instance(session, received(uid))
        session.flush()
        for uid in uids:
            settling.settle(session, lifecycle.find(session, uid), "bench")
    return uids


def received(uid: str) -> lifecycle.ReceivedInstance:
    return lifecycle.ReceivedInstance(
        study=lifecycle.StudyAttributes(uid),
        sop_instance_uid=f"{uid}.1",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        series_instance_uid=f"{uid}.2",
        modality="CT",
        reportable=True,
        file_path=f"spool/store/{uid}.dcm",
        file_bytes=1,
        sha256="0",
        received_at=dt.datetime.now(dt.UTC),
    )


def overhead_ms(url: str, client: redis.Redis) -> list[float]:
    """From commit to engine, in ms, one job at a time."""
    found = []
    for _ in range(IDLE_JOBS):
        client.delete("asked")
        queue_jobs(url, 1)
        committed = time.time()
        _, answer = client.blpop(["asked"], timeout=DONE_SECONDS)
        found.append(max(float(answer.split()[1]) - committed, 0) * 1000)
        time.sleep(IDLE_PAUSE_SECONDS)
    return found


def drain_ours(url: str, client: redis.Redis) -> float:
    """Until every job is done and every message is gone: those that find nothing are ours too."""
    queue_jobs(url, JOBS)
    return rate(lambda: open_jobs(url) == 0 and client.llen(QUEUE) + client.hlen(TAKEN_MESSAGES) == 0)


def drain_celery(broker: str, client: redis.Redis) -> float:
    client.delete("plain-done")
    app = plain_app(broker)
    # From the first message: ours sends its messages within the measured time too.
    started = time.perf_counter()
    for number in range(JOBS):
        app.send_task("noop", args=[number])
    wait_until(lambda: int(client.get("plain-done") or 0) == JOBS)
    return JOBS / (time.perf_counter() - started)


def drain_skip_locked(url: str) -> float:
    """THREADS loops that claim a row and mark it done, two commits a job; nothing else."""
    dsn = url.replace("+psycopg", "")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS bare (id bigserial PRIMARY KEY, state text, fence int)")
        connection.execute("TRUNCATE bare")
        connection.execute("INSERT INTO bare (state, fence) SELECT 'queued', 0 FROM generate_series(1, %s)", [JOBS])
    started = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(drain_bare, [dsn] * THREADS))
    return JOBS / (time.perf_counter() - started)


def drain_bare(dsn: str) -> None:
    claim = """UPDATE bare SET state = 'running', fence = fence + 1 WHERE id = (
        SELECT id FROM bare WHERE state = 'queued' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id, fence"""
    with psycopg.connect(dsn, autocommit=True) as connection:
        while row := connection.execute(claim).fetchone():
            connection.execute("UPDATE bare SET state = 'done' WHERE id = %s AND fence = %s", row)


def rate(done: Callable[[], bool]) -> float:
    started = time.perf_counter()
    wait_until(done)
    return JOBS / (time.perf_counter() - started)


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DONE_SECONDS
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError("the queue was not drained in time")
        time.sleep(LOOK_SECONDS)


def open_jobs(url: str) -> int:
    with transaction(url) as session:
        return int(session.scalar(text("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")) or 0)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-queue-") as folder:
        root = Path(folder)
        with Postgres(root / "postgres") as postgres, Redis(root / "redis") as broker:
            migrate(postgres.url)
            measure(root, postgres.url, broker.url)


def measure(root: Path, url: str, broker: str) -> None:
    environment = {
        "PRELIM_DATA_DIR": str(root / "data"),
        "PRELIM_DATABASE_URL": url,
        "PRELIM_BROKER_URL": broker,
        "PRELIM_WORKER_SLOTS": str(THREADS),
        "PRELIM_LOG_LEVEL": "error",
    }
    (root / "data").mkdir()
    client = redis.Redis.from_url(broker)
    drained: dict[str, list[float]] = {"prelim": [], "celery": [], "skip locked": []}
    with child(run_worker, environment), child(run_dispatcher, environment), child(run_plain, broker):
        wait_until(lambda: everyone_is_here(url))
        drain_celery(broker, client)  # the first round warms up and is not counted
        drain_ours(url, client)
        overhead = overhead_ms(url, client)
        for _ in range(ROUNDS):
            drained["celery"].append(drain_celery(broker, client))
            drained["prelim"].append(drain_ours(url, client))
            drained["skip locked"].append(drain_skip_locked(url))
    show(overhead, drained)


def everyone_is_here(url: str) -> bool:
    with transaction(url) as session:
        return {process.role for process in heartbeats.alive(session)} >= {"worker", "dispatcher"}


def show(overhead: list[float], drained: dict[str, list[float]]) -> None:
    percentiles = statistics.quantiles(overhead, n=100, method="inclusive")
    p50, p99 = percentiles[49], percentiles[98]
    table = Table("drain", "jobs/s, median", "rounds")
    for name, rates in drained.items():
        table.add_row(name, f"{statistics.median(rates):.0f}", " ".join(f"{r:.0f}" for r in rates))
    console = Console(width=100)
    console.print(f"from commit to engine, idle: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {len(overhead)} jobs")
    console.print(table)
    ours = drained["prelim"]
    figures = {
        "overhead_p50_ms": round(p50, 2),
        "overhead_p99_ms": round(p99, 2),
        "drain_vs_celery": ratio(ours, drained["celery"]),
        "drain_vs_skip_locked": ratio(ours, drained["skip locked"]),
    }
    print(json.dumps(figures))  # noqa: T201 - the last line, for programs


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the rounds' ratios: rounds that lie beside each other saw the same machine."""
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


if __name__ == "__main__":
    main()
