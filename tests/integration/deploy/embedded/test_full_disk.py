"""PostgreSQL and the queue's server on a disk that is full: both work again when it is not, and lose nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis

from deploy.embedded.postgres import Postgres
from deploy.embedded.redis import Redis
from deploy.embedded.server_process import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 2**20
SECONDS = 60


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300m,mode=755", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def until(done: Callable[[], bool], servers: tuple[Postgres, Redis]) -> None:
    """Wait, and start an ended server again, as `prelim up` and a container engine do."""
    deadline = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < deadline
        for server in servers:
            if not server.alive:
                with suppress(ServerError):
                    server.start()
        time.sleep(0.1)


def insert(url: str, number: int) -> bool:
    with suppress(psycopg.Error), psycopg.connect(url, autocommit=True, connect_timeout=2) as connection:
        connection.execute("INSERT INTO rows VALUES (%s, %s)", (number, os.urandom(300_000)))
        return True
    return False


def push(client: redis.Redis, number: int) -> bool:
    with suppress(redis.RedisError):
        client.rpush("messages", f"{number} ".encode() + os.urandom(200_000).hex().encode())
        return True
    return False


@pytest.mark.slow
def test_servers_on_a_full_disk_work_again_once_it_is_freed(disk: Path) -> None:
    with Postgres(disk / "postgres") as postgres, Redis(disk / "redis") as queue:
        url, client = postgres.url.replace("+psycopg", ""), redis.Redis.from_url(queue.url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE rows (number int, content bytea)")
        free = os.statvfs(disk)
        (disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - 12 * MIB))
        rows, messages = [], []
        for number in range(100):
            rows += [number] * insert(url, number)
            messages += [number] * push(client, number)
        assert len(rows) < 100
        assert len(messages) < 100
        (disk / "filler").unlink()
        until(lambda: insert(url, 1000) and push(client, 1000), (postgres, queue))

        with psycopg.connect(url) as connection:
            kept = {number for (number,) in connection.execute("SELECT number FROM rows")}
        assert {*rows, 1000} <= kept
        pushed = {int(message.split()[0]) for message in client.lrange("messages", 0, -1)}
        assert {*messages, 1000} <= pushed
