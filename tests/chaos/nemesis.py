"""The seeded adversary: what it does to a house, each fault one function."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING

import redis

from tests.chaos.children import CLOCK, DISK_FULL

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.chaos.house import House

    Fault = Callable[[House, random.Random], None]


def kill_listener(house: House, _: random.Random) -> None:
    house.signal("listener", signal.SIGKILL)


def kill_dispatcher(house: House, rng: random.Random) -> None:
    house.signal(rng.choice(["dispatcher-1", "dispatcher-2"]), signal.SIGKILL)


def kill_worker(house: House, rng: random.Random) -> None:
    house.signal(rng.choice(["worker-1", "worker-2"]), signal.SIGKILL)


def stop_worker(house: House, rng: random.Random) -> None:
    house.signal(rng.choice(["worker-1", "worker-2"]), signal.SIGTERM)


def freeze_worker(house: House, rng: random.Random) -> None:
    """Longer than its lease: when it wakes up, another has its jobs."""
    name = rng.choice(["worker-1", "worker-2"])
    house.signal(name, signal.SIGSTOP)
    house.tend_for(house.settings.queue.lease_seconds * 1.5)
    house.signal(name, signal.SIGCONT)


def step_clock(house: House, rng: random.Random) -> None:
    (house.settings.operations.data_dir / CLOCK).write_text(str(rng.choice([-86400, -30, 30, 7200, 0])))


def kill_redis(house: House, _: random.Random) -> None:
    assert house.redis.process
    house.redis.process.kill()
    house.redis.start()


def kill_redis_and_its_file(house: House, _: random.Random) -> None:
    assert house.redis.process
    house.redis.process.kill()
    house.redis.process.wait()
    for path in (house.redis.directory / "data").glob("appendonly*"):
        path.unlink()
    house.redis.start()


def flush_redis(house: House, _: random.Random) -> None:
    with redis.Redis.from_url(house.redis.url) as client, contextlib.suppress(redis.RedisError):
        client.flushall()


def kill_postgres(house: House, _: random.Random) -> None:
    assert house.postgres.process
    os.kill(house.postgres.process.pid, signal.SIGKILL)
    house.postgres.start()


def fill_disk(house: House, rng: random.Random) -> None:
    flag = house.settings.operations.data_dir / DISK_FULL
    flag.touch()
    house.tend_for(rng.uniform(0.5, 1.5))
    flag.unlink()


FAULTS: tuple[Fault, ...] = (
    kill_listener,
    kill_dispatcher,
    kill_worker,
    stop_worker,
    freeze_worker,
    step_clock,
    kill_redis,
    kill_redis_and_its_file,
    flush_redis,
    kill_postgres,
    fill_disk,
)


class Nemesis:
    """Strikes in a seeded order, every fault before any comes again."""

    def __init__(self, house: House, rng: random.Random) -> None:
        self.struck: Counter[str] = Counter()
        self._house = house
        self._rng = rng
        self._next: list[Fault] = []

    def strike(self) -> None:
        """Do the next thing."""
        if not self._next:
            self._next = self._rng.sample(FAULTS, len(FAULTS))
        fault = self._next.pop()
        fault(self._house, self._rng)
        self.struck[fault.__name__] += 1
