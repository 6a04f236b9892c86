"""A Redis master that is killed, and Sentinels that promote its replica."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from celery.contrib.testing.worker import start_worker
from limits import RateLimitItemPerMinute
from limits.strategies import FixedWindowRateLimiter

from api.access import rate_limits
from db.jobs import celery_app, redis_client
from tests.polling import wait_until
from tests.sentinels import Sentinels

if TYPE_CHECKING:
    from pathlib import Path

JOB = "00000000-0000-0000-0000-000000000001"


@pytest.mark.slow
def test_messages_are_consumed_within_a_minute_after_the_master_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That of a request, which must not wait for a busy machine.
    monkeypatch.setattr(rate_limits, "TIMEOUT_SECONDS", 10.0)
    with Sentinels(tmp_path) as servers:
        url = servers.url
        app, received = celery_app.make_app(url), threading.Event()
        limiter = FixedWindowRateLimiter(rate_limits._storage(url))

        @app.task(name=celery_app.JOB_TASK, shared=False)  # type: ignore[untyped-decorator] # Celery has no types
        def report(_job_id: str) -> None:
            received.set()

        with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False, shutdown_timeout=30):
            assert celery_app.send(app, JOB)  # type: ignore[arg-type] # as text
            assert received.wait(20)
            assert celery_app.depth(app) == 0
            assert limiter.hit(RateLimitItemPerMinute(5), "somebody")
            received.clear()

            begun = time.monotonic()
            servers.process.kill()
            wait_until(lambda: celery_app.send(app, JOB), 60)  # type: ignore[arg-type] # as text
            assert received.wait(60 - (time.monotonic() - begun))

        with redis_client.connect(url, 1) as client:
            assert client.ping()
        assert limiter.hit(RateLimitItemPerMinute(5), "somebody")
