"""A real server process, and tabs of a real browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.benchmarks.receivers import free_port
from tests.conftest import REPOSITORY
from tests.integration.api.browser import Tab, chromium
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: A Redis that a busy machine delays by 0.2 s would leave requests without a limit for 5 s.
SERVE = """
from api.access import rate_limits
from api.server.serve import run
from db.environment import load_settings

rate_limits.TIMEOUT_SECONDS = 10.0
run(load_settings())
"""


@pytest.fixture
def server(
    database_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server process; a parameter of the fixture has further environment variables."""
    environment = dict(getattr(request, "param", {}))
    if "PRELIM_FAILED_LOGINS_PER_MINUTE" in environment:
        environment["PRELIM_BROKER_URL"] = request.getfixturevalue("broker_url")
    with serving(database_url, tmp_path, free_port(), **environment) as started:
        yield started


@contextmanager
def serving(
    database_url: str, folder: Path, port: int, **settings: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a server process on *port*, with further environment variables."""
    environment = {
        "PRELIM_DATABASE_URL": database_url,
        "PRELIM_API_PORT": str(port),
        "PRELIM_DATA_DIR": str(folder),
        "PATH": os.environ["PATH"],
        **settings,
    }
    process = subprocess.Popen([sys.executable, "-c", SERVE], cwd=REPOSITORY, env=environment)
    try:
        # One client: each would load the certificates of all authorities.
        with httpx.Client() as client:
            wait_until(lambda: _answers(client, port), 90)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def address(server: tuple[str, subprocess.Popen[bytes]]) -> str:
    return server[0]


def _answers(client: httpx.Client, port: int) -> bool:
    try:
        return client.get(f"http://127.0.0.1:{port}/v1/health").status_code in {200, 503}
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def open_tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Tab]]:
    with chromium(tmp_path_factory.mktemp("profile")) as open_tab:
        yield open_tab


@pytest.fixture
def tab(open_tab: Callable[[], Tab]) -> Iterator[Tab]:
    tab = open_tab()
    yield tab
    tab.close()
