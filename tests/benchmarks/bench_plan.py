"""`prelim plan` against measured runs: 500 studies, two workers, whose engine is a GPU that its slots share.

The engine only waits, for as long as a GPU with known costs would: each run gives its waits, and those that the plan
simulates: from the run's own times, with the speed of the first run, and with durations drawn from the first run, too.

    python -m tests.benchmarks.bench_plan [--studies 500] [--loads 0.95 0.8 1.1]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import tempfile
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from db import logs
from db.environment import load_settings
from db.migrations.upgrade import migrate
from db.session import engine, reading, transaction
from db.studies import lifecycle, settling
from deploy.embedded.postgres import Postgres
from deploy.embedded.redis import Redis
from deploy.operate.plan import load
from deploy.operate.plan.plan import REPLAYS
from deploy.operate.plan.simulation import Arrival, quantile, waits
from tests.benchmarks.bench_queue import DRAFT, child, everyone_is_here, open_jobs, received, run_dispatcher
from tests.polling import wait_until
from worker.process import build

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from db.settings import Settings
    from deploy.operate.plan.load import Load, Measured
    from worker.pipeline.pipeline import StudyToReport

WORKERS, SLOTS = 2, 4
#: Seconds of a report alone, mean; and the share of them by which each report beside it makes it longer.
SECONDS, SHARING = 1.2, 0.3
URGENT_SHARE = 0.15
#: Seconds for two workers to start on a busy machine.
READY_SECONDS = 300.0


class SharedGpu:
    """An engine whose reports share one GPU: each takes as long as its study says, and longer beside others."""

    stalled_seconds = 0.0

    def __init__(self, settings: Settings) -> None:
        self.info = {"slots": settings.queue.worker_slots}
        self._changed = threading.Condition()
        self._running, self._done, self._at = 0, 0.0, time.monotonic()

    def write(self, study: StudyToReport, _on_progress: Callable[[], None]) -> Any:
        with self._changed:
            self._advance(1)
            end = self._done + seconds_of(study.study_hash)
            while (left := end - self._done) > 0:
                self._changed.wait(left * self._slower)
                self._advance(0)
            self._advance(-1)
        return DRAFT

    @property
    def _slower(self) -> float:
        return 1 + SHARING * (self._running - 1)

    def _advance(self, change: int) -> None:
        now = time.monotonic()
        if self._running:
            self._done += (now - self._at) / self._slower
        self._at, self._running = now, self._running + change
        if change:
            self._changed.notify_all()


def seconds_of(study_hash: str) -> float:
    """Seconds of a study's report alone: mostly near the mean, some three times that."""
    chance = random.Random(study_hash)
    return SECONDS * (0.5 + chance.random()) * (3 if chance.random() < 0.1 else 1) / 1.2


def run_worker(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    settings = load_settings()
    logs.configure(settings)
    command = ["worker", "--pool=threads", f"--concurrency={SLOTS}", "--loglevel=error", "--without-mingle"]
    build(settings, SharedGpu).worker_main(command)


def arrive(url: str, studies: int, rate: float, seed: int) -> None:
    """Queue studies one by one, at times of a Poisson process."""
    chance, at = random.Random(seed), time.monotonic()
    for _ in range(studies):
        at += chance.expovariate(rate)
        time.sleep(max(at - time.monotonic(), 0))
        uid, priority = f"2.25.{uuid.UUID(int=chance.getrandbits(128)).int}", 2 * (chance.random() < URGENT_SHARE)
        with transaction(url) as session:
            object_ = received(uid)
            study = lifecycle.StudyAttributes(uid, priority=priority)
            lifecycle.record_instance(session, replace(object_, study=study))
            session.flush()
            settling.settle(session, lifecycle.find(session, uid), "bench")


def measure(root: Path, studies: int, rate: float, seed: int) -> tuple[Load, Measured]:
    """Return what the plan reads after a run in a new installation."""
    root.mkdir()
    with Postgres(root / "postgres") as postgres, Redis(root / "redis") as broker, contextlib.ExitStack() as stack:
        migrate(postgres.url)
        environment = {
            "PRELIM_DATA_DIR": str(root / "data"),
            "PRELIM_DATABASE_URL": postgres.url,
            "PRELIM_BROKER_URL": broker.url,
            "PRELIM_WORKER_SLOTS": str(SLOTS),
            "PRELIM_LOG_LEVEL": "error",
        }
        (root / "data").mkdir()
        for target in [run_worker] * WORKERS + [run_dispatcher]:
            stack.enter_context(child(target, environment))
        wait_until(lambda: everyone_is_here(postgres.url) and workers_alive(postgres.url) == WORKERS, READY_SECONDS)
        arrive(postgres.url, studies, rate, seed)
        wait_until(lambda: open_jobs(postgres.url) == 0, studies * SECONDS)
        with reading(postgres.url) as session:
            found, measured = load.from_database(session)
        engine(postgres.url).dispose()
    assert measured is not None
    return found, measured


def workers_alive(url: str) -> int:
    with reading(url) as session:
        return len(load.heartbeats.alive(session, load.Role.WORKER))


def simulated(measured: Measured, jobs: Sequence[Arrival], known: Load) -> dict[int, list[float]]:
    """Return the waits of *jobs* with the speed of *known*, by priority; of all under -1."""
    workers = replace(known.workers(WORKERS), begin=measured.workers.begin)
    found: dict[int, list[float]] = {-1: [], 0: [], 2: []}
    for wait in (wait for seed in range(REPLAYS) for wait in waits(jobs, workers, seed)):
        found[-1].append(wait.seconds)
        found[wait.priority].append(wait.seconds)
    return found


def main() -> None:
    """Run, print a table, then one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.95, 0.8, 1.1])
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    capacity = WORKERS * SLOTS / (1 + SHARING * (SLOTS - 1)) / SECONDS
    table = Table("load", "sharing", "jobs", "p95 measured", "replay", "from the first run", "drawn again")
    lines = []
    first: Load | None = None
    for number, share in enumerate(arguments.loads):
        with tempfile.TemporaryDirectory(prefix="bench-plan-") as folder:
            found, measured = measure(Path(folder, "run"), arguments.studies, share * capacity, arguments.seed + number)
        first = first or found
        lines.append(compare(share, found, measured, first, table))
        print(json.dumps(lines[-1]), flush=True)  # noqa: T201 - progress
    Console(width=140).print(table)
    print(json.dumps({"plan_replay_worst": max(line["worst"] for line in lines)}))  # noqa: T201 - the last line, for programs


def compare(share: float, found: Load, measured: Measured, first: Load, table: Table) -> dict[str, Any]:
    """Add a row for a run, and return its figures."""
    chance = random.Random(7)
    drawn = [job._replace(seconds=chance.choice(first.seconds)) for job in measured.jobs]
    real = {-1: measured.waits}
    for level in (0, 2):
        real[level] = [w for w, j in zip(measured.waits, measured.jobs, strict=True) if j.priority == level]
    ways = [simulated(measured, measured.jobs, found), simulated(measured, measured.jobs, first)]
    ways.append(simulated(measured, drawn, first))
    p95 = {level: [quantile(each[level], 0.95) for each in (real, *ways)] for level in real}
    row = [f"{seconds:.2f} / {p95[0][i]:.2f} / {p95[2][i]:.2f}" for i, seconds in enumerate(p95[-1])]
    table.add_row(f"{share}", f"{found.speed.sharing:.2f}", str(len(measured.jobs)), *row)
    return {
        "load": share,
        "sharing": round(found.speed.sharing, 3),
        "after_another_ms": [round(1000 * quantile(found.speed.after_another, q), 1) for q in (0.5, 0.95)],
        "when_idle_ms": [round(1000 * quantile(found.speed.when_idle, q), 1) for q in (0.5, 0.95)],
        "p50": [round(quantile(each[-1], 0.5), 3) for each in (real, *ways)],
        "p95": {str(level): [round(value, 3) for value in values] for level, values in p95.items()},
        "worst": round(abs(p95[-1][1] / p95[-1][0] - 1), 3),
    }


if __name__ == "__main__":
    main()
