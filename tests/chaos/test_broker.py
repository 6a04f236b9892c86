"""A whole system whose Redis is demoted, full or stopped: reports are written, by the same worker process."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import redis

from deploy.embedded.redis import Redis
from tests.chaos.checker import all_ended
from tests.chaos.failover.faults import consumes_messages
from tests.chaos.system import running_system
from tests.chaos.test_chaos import ONE_WORKER, plain_studies, send
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.system import System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@contextmanager
def demoted(system: System) -> Iterator[None]:
    with redis.Redis.from_url(system.redis.url) as client:
        client.replicaof("127.0.0.1", "1")
        yield
        client.replicaof("NO", "ONE")


@contextmanager
def full(system: System) -> Iterator[None]:
    with redis.Redis.from_url(system.redis.url) as client:
        client.set("filler", bytes(1 << 20))
        client.config_set("maxmemory", "1mb")
        yield
        client.config_set("maxmemory", "0")


@contextmanager
def stopped(system: System) -> Iterator[None]:
    assert system.redis.process is not None
    os.kill(system.redis.process.pid, signal.SIGSTOP)
    yield
    os.kill(system.redis.process.pid, signal.SIGCONT)


@pytest.mark.parametrize("fault", [demoted, full, stopped])
def test_reports_are_written_during_and_after_a_broker_fault_by_the_same_process(tmp_path: Path, fault: Any) -> None:
    with running_system(tmp_path / "system", ONE_WORKER, PRELIM_REDELIVER_SECONDS="5") as system:
        worker, studies = system.children["worker-1"].pid, plain_studies(3)
        send(system, studies[:1], seconds=0)
        wait_until(lambda: all_ended(system, studies[:1]), 30)
        with fault(system):
            send(system, studies[1:2], seconds=0)
            wait_until(lambda: all_ended(system, studies[:2]), 60)
        send(system, studies[2:], seconds=0)
        wait_until(lambda: all_ended(system, studies), 60)

        assert system.children["worker-1"].pid == worker
        assert system.children["worker-1"].is_alive()
        assert system.logged("broker.unreachable") <= 2, "once in each process"


def test_messages_are_consumed_within_a_minute_after_each_of_ten_restarts_of_redis(tmp_path: Path) -> None:
    # No job is claimed without its message before a minute has passed, and none is announced twice.
    with running_system(tmp_path / "system", ONE_WORKER, PRELIM_REDELIVER_SECONDS="600") as system:
        worker, studies = system.children["worker-1"].pid, plain_studies(1)
        assert isinstance(system.redis, Redis)
        for _ in range(10):
            wait_until(lambda: consumes_messages(system), 60)
            system.redis.process.kill()
            system.redis.start()
        wait_until(lambda: consumes_messages(system), 60)
        send(system, studies, seconds=0)
        wait_until(lambda: all_ended(system, studies), 60)

        assert system.children["worker-1"].pid == worker
        assert system.children["worker-1"].is_alive()
