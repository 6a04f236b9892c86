"""A Redis master that is killed, and Sentinels that promote its replica."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
import redis
from celery.contrib.testing.worker import start_worker
from limits import RateLimitItemPerMinute
from limits.strategies import FixedWindowRateLimiter

from api.access import rate_limits
from db.jobs import celery_app, redis_client
from deploy.embedded.redis import redis_program
from deploy.embedded.server_process import free_port
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOB = "00000000-0000-0000-0000-000000000001"
SECRET = "p@ss"
SERVER = f"requirepass {SECRET}\nmasterauth {SECRET}\nappendonly yes\nsave ''\n"
SENTINEL = """sentinel monitor queue 127.0.0.1 {master} 2
sentinel auth-pass queue {secret}
sentinel down-after-milliseconds queue 500
sentinel failover-timeout queue 5000
"""


@contextmanager
def server(folder: Path, configuration: str, *options: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run a server in a folder of its own; yield its port and process."""
    port = free_port()
    home = folder / str(port)
    home.mkdir()
    file = home / "conf"
    file.write_text(f"bind 127.0.0.1\nport {port}\ndir {home}\n{configuration}")
    process = subprocess.Popen([redis_program(), file, *options], stdout=subprocess.DEVNULL)
    try:
        yield port, process
    finally:
        process.kill()
        process.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a master, a replica and three Sentinels; yield their URL and the master."""
    with ExitStack() as stack:
        master, process = stack.enter_context(server(folder, SERVER))
        stack.enter_context(server(folder, f"{SERVER}replicaof 127.0.0.1 {master}\n"))
        watched = SENTINEL.format(master=master, secret=SECRET)
        ports = [stack.enter_context(server(folder, watched, "--sentinel"))[0] for _ in range(3)]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        url = f"sentinel://:{SECRET.replace('@', '%40')}@{hosts}/0?master_name=queue"
        wait_until(lambda: all(is_complete(port) for port in ports), 30)
        yield url, process


def is_complete(port: int) -> bool:
    """Return whether a Sentinel can promote: it has found the replica and the other two."""
    try:
        with redis.Redis(port=port, socket_timeout=1) as client:
            master = client.sentinel_master("queue")  # type: ignore[no-untyped-call] # redis has types in parts
            replicas = client.sentinel_slaves("queue")  # type: ignore[no-untyped-call]
    except redis.RedisError:
        return False
    up = [replica for replica in replicas if replica["master-link-status"] == "ok"]
    return len(up) == 1 and master["num-other-sentinels"] == 2


@pytest.mark.slow
def test_messages_are_consumed_within_a_minute_after_the_master_was_killed(tmp_path: Path) -> None:
    with cluster(tmp_path) as (url, master):
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
            master.kill()
            wait_until(lambda: celery_app.send(app, JOB), 60)  # type: ignore[arg-type] # as text
            assert received.wait(60 - (time.monotonic() - begun))

        with redis_client.connect(url, 1) as client:
            assert client.ping()
        assert limiter.hit(RateLimitItemPerMinute(5), "somebody")
