"""A real Redis that is demoted to a replica, full, or stopped."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery.contrib.testing.worker import start_worker
from structlog.testing import capture_logs

from db.jobs import celery_app, consumer
from deploy.embedded.redis import Redis
from tests.polling import wait_until
from tests.services import running

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB = "00000000-0000-0000-0000-000000000001"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis of its own: these faults would disturb other tests."""
    with running(Redis(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@contextmanager
def demoted(server: Redis) -> Iterator[None]:
    with redis.Redis.from_url(server.url) as client:
        client.replicaof("127.0.0.1", "1")
        try:
            yield
        finally:
            client.replicaof("NO", "ONE")


@contextmanager
def full(server: Redis) -> Iterator[None]:
    with redis.Redis.from_url(server.url) as client:
        client.set("filler", bytes(1 << 20))
        client.config_set("maxmemory", "1mb")
        try:
            yield
        finally:
            client.config_set("maxmemory", "0")
            client.delete("filler")


@contextmanager
def stopped(server: Redis) -> Iterator[None]:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("fault", [demoted, full, stopped])
def test_faulty_redis_is_reported_once_and_used_again_when_it_works(
    server: Redis, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(celery_app, "SOCKET_SECONDS", 0.3)
    monkeypatch.setattr("db.jobs.outages.PAUSE_SECONDS", 0.0)
    app = celery_app.make_app(server.url)
    assert celery_app.probe(app)

    with capture_logs() as lines:
        with fault(server):
            for _ in range(3):
                assert not celery_app.probe(app)
                assert not celery_app.send(app, JOB)  # type: ignore[arg-type] # as text
        wait_until(lambda: celery_app.send(app, JOB), 10)  # type: ignore[arg-type] # as text

    assert [line["event"] for line in lines] == ["broker.unreachable", "broker.reachable"]
    assert lines[1]["failures"] >= 6


def test_consumer_outlives_a_demoted_redis(server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "PAUSE_SECONDS", 0.1)
    app, received = celery_app.make_app(server.url), threading.Event()

    @app.task(name=celery_app.JOB_TASK, shared=False)  # type: ignore[untyped-decorator] # Celery has no types
    def report(_job_id: str) -> None:
        received.set()

    with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False, shutdown_timeout=30):
        with demoted(server):
            wait_until(lambda: app.outage.on, 20)
            time.sleep(0.5)
        wait_until(lambda: celery_app.probe(app), 10)
        assert celery_app.send(app, JOB)  # type: ignore[arg-type] # as text
        assert received.wait(20)
