"""`prelim plan` against measured runs: two workers, whose engine is a GPU that its slots share, and four priorities.

The engine only waits, for as long as a GPU with known costs would. Each run gives the waits of each priority, beside
those of its replay on simulated workers. The interval of a measured quantile is that of its ranks; a class with fewer
than 100 jobs decides nothing.

    python -m tests.benchmarks.bench_plan [--studies 500] [--loads 0.95 0.8 1.05]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import tempfile
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from db import logs
from db.environment import load_settings
from db.migrations.upgrade import migrate
from db.session import engine, reading, transaction
from db.studies import lifecycle, settling
from db.studies.priority import STAT
from deploy.embedded.postgres import Postgres
from deploy.embedded.redis import Redis
from deploy.operate.plan import load
from deploy.operate.plan.replayed import ALL, MIN_JOBS, NAMES, SHARE, compare
from tests.benchmarks.bench_queue import DRAFT, child, everyone_is_here, open_jobs, received, run_dispatcher
from tests.polling import wait_until
from worker.process import build

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from db.settings import Settings
    from deploy.operate.plan.load import Load, Measured
    from worker.pipeline.pipeline import StudyToReport

WORKERS, SLOTS = 2, 4
#: Share by which each report beside it makes a report longer.
SHARING = 0.3
#: Share of each priority: STAT, high, routine, low.
PRIORITIES = {2: 0.15, 1: 0.1, 0: 0.65, -1: 0.1}


class Modality(NamedTuple):
    """Mean seconds of a report alone, and the shares of STAT and of other studies that are of this modality."""

    seconds: float
    of_stat: float
    of_others: float


#: Reports of a CT take longest, and most STAT studies are of it.
MODALITIES = {
    "CR": Modality(0.7, 0.25, 0.6),
    "US": Modality(0.9, 0.05, 0.2),
    "CT": Modality(2.6, 0.65, 0.12),
    "MR": Modality(2.2, 0.05, 0.08),
}
#: Seconds for two workers to start on a busy machine.
READY_SECONDS = 300.0
#: Seconds for the queue to become empty after the last study.
DRAIN_SECONDS = 600.0
#: 97.5 % of a normal distribution lie below as many standard deviations: of the ranks of a quantile.
DEVIATIONS = 1.96


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
            end = self._done + seconds_of(study)
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


def seconds_of(study: StudyToReport) -> float:
    """Return the seconds of a study's report alone: near the mean of its modality."""
    return MODALITIES[study.modality].seconds * random.Random(study.study_hash).uniform(0.6, 1.4)


def draw(chance: random.Random) -> tuple[int, str]:
    """Return the priority and the modality of a study."""
    priority = chance.choices([*PRIORITIES], [*PRIORITIES.values()])[0]
    shares = [each.of_stat if priority == STAT else each.of_others for each in MODALITIES.values()]
    return priority, chance.choices([*MODALITIES], shares)[0]


def capacity() -> float:
    """Return the reports a second of all workers with all slots busy."""
    drawn = [MODALITIES[draw(random.Random(seed))[1]].seconds for seed in range(10_000)]
    return WORKERS * SLOTS / (1 + SHARING * (SLOTS - 1)) * len(drawn) / sum(drawn)


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
        uid = f"2.25.{uuid.UUID(int=chance.getrandbits(128)).int}"
        priority, modality = draw(chance)
        with transaction(url) as session:
            study = lifecycle.StudyAttributes(uid, priority=priority)
            lifecycle.record_instance(session, replace(received(uid), study=study, modality=modality))
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
        wait_until(lambda: open_jobs(postgres.url) == 0, DRAIN_SECONDS)
        with reading(postgres.url) as session:
            found, measured = load.from_database(session)
        engine(postgres.url).dispose()
    assert measured is not None
    return found, measured


def workers_alive(url: str) -> int:
    with reading(url) as session:
        return len(load.heartbeats.alive(session, load.Role.WORKER))


def interval(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the compared quantile, from the ranks (independent waits assumed)."""
    ordered, number = sorted(seconds), len(seconds)
    ranks = DEVIATIONS * math.sqrt(number * SHARE * (1 - SHARE))
    low, high = math.floor(number * SHARE - ranks), math.ceil(number * SHARE + ranks)
    return ordered[max(low, 0)], ordered[min(high, number - 1)]


def compared(measured: Measured, table: Table, load_share: float) -> dict[str, dict[str, Any]]:
    """Add a row for each priority of a run, and return its figures."""
    found = {}
    for name, each in compare(measured).items():
        waits = [
            wait for wait, job in zip(measured.waits, measured.jobs, strict=True) if name in (ALL, NAMES[job.priority])
        ]
        low, high = interval(waits)
        error = each.simulated / each.measured - 1
        shown = [f"{each.measured:.2f} ({low:.2f} to {high:.2f})"]
        shown += [f"{each.simulated:.2f} ({each.lowest:.2f} to {each.highest:.2f})", f"{error:+.0%}"]
        table.add_row(f"{load_share}", name, str(each.jobs), *shown)
        found[name] = each._asdict() | {"interval": (low, high), "error": round(error, 3)}
    return found


def main() -> None:
    """Run, print a table, then one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.95, 0.8, 1.05])
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    table = Table("load", "priority", "jobs", "95 % wait measured", "replay", "error")
    errors = []
    for seed, share in enumerate(arguments.loads, arguments.seed):
        with tempfile.TemporaryDirectory(prefix="bench-plan-") as folder:
            found, measured = measure(Path(folder, "run"), arguments.studies, share * capacity(), seed)
        classes = compared(measured, table, share)
        errors += [abs(each["error"]) for each in classes.values() if each["jobs"] >= MIN_JOBS]
        print(json.dumps({"load": share, "sharing": found.speed.sharing, "p95": classes}), flush=True)  # noqa: T201 - progress
    Console(width=140).print(table)
    print(json.dumps({"plan_replay_worst": max(errors)}))  # noqa: T201 - the last line, for programs


if __name__ == "__main__":
    main()
