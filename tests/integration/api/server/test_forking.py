"""Several processes of the API serve one port, with audit chains of their own, and are replaced when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from db.access import audit_log, keys
from db.session import transaction
from tests.benchmarks.receivers import free_port
from tests.polling import runs, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

SERVE = "from api.server.serve import run; from deploy.cli.startup import process_settings; run(process_settings())"


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def parent(database_url: str, port: int, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The parent of two processes that serve."""
    settings = {
        "PRELIM_DATABASE_URL": database_url,
        "PRELIM_DATA_DIR": str(tmp_path),
        "PRELIM_API_PORT": str(port),
        "PRELIM_API_PROCESSES": "2",
    }
    with subprocess.Popen([sys.executable, "-c", SERVE], env=os.environ | settings) as process:
        wait_until(lambda: len(children(process)) == 2 and answers(port), seconds=60)
        yield process
        process.terminate()


def children(process: subprocess.Popen[bytes]) -> list[int]:
    place = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in place.read_text().split()] if place.exists() else []


def answers(port: int) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/v1/live", timeout=5).status_code == 200
    return False


def chains(url: str) -> audit_log.Verified:
    with transaction(url) as session:
        return audit_log.verify(session)


def test_each_process_has_an_audit_chain_of_its_own(
    parent: subprocess.Popen[bytes], port: int, database_url: str
) -> None:
    with transaction(database_url) as session:
        headers = {"Authorization": f"Bearer {keys.create(session, 'bench')}"}

    def read() -> bool:
        # A new connection each time: the kernel divides them.
        httpx.get(f"http://127.0.0.1:{port}/v1/studies", headers=headers, timeout=10).raise_for_status()
        return chains(database_url).chains == 2

    wait_until(read, seconds=60)
    assert parent.poll() is None
    assert chains(database_url).problems == []


def test_process_that_ended_is_replaced_and_all_end_with_the_parent(parent: subprocess.Popen[bytes], port: int) -> None:
    first, second = children(parent)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(set(children(parent)) - {first, second}) == 1, seconds=30)
    wait_until(lambda: answers(port), seconds=30)
    replaced = children(parent)

    parent.kill()

    wait_until(lambda: not any(map(runs, replaced)), seconds=30)


def test_sigterm_ends_every_process(parent: subprocess.Popen[bytes]) -> None:
    pids = children(parent)

    parent.terminate()

    assert parent.wait(timeout=30) == 0
    assert not any(map(runs, pids))
