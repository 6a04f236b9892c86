"""A real server process in a real browser."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.conftest import REPOSITORY
from tests.integration.api.arrivals import png
from tests.integration.api.browser import Tab, chromium
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.api.arrivals import Arrivals

SERVE = "from api.server.serve import run; from db.environment import load_settings; run(load_settings())"


@pytest.fixture
def address(database_url: str) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {"PRELIM_DATABASE_URL": database_url, "PRELIM_API_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-c", SERVE], cwd=REPOSITORY, env=environment)
    try:
        wait_until(lambda: _answers(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v1/health").status_code in {200, 503}
    except httpx.ConnectError:
        return False


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    with chromium(tmp_path / "profile") as tab:
        yield tab


def log_in(tab: Tab, address: str, key: str, path: str = "/") -> None:
    tab.open(address + path)
    tab.evaluate(f"document.querySelector('#key').value = '{key}'")
    tab.evaluate("document.querySelector('form.card button').click()")
    tab.wait(f"location.pathname === '{path}' && document.readyState === 'complete'")


def test_reader_logs_in_and_opens_a_report_with_its_image(tab: Tab, address: str, key: str, arrivals: Arrivals) -> None:
    study_id = arrivals.reported(arrivals.draft([png(size=96)]))
    log_in(tab, address, key)
    tab.evaluate(f"document.getElementById('study-{study_id}').click()")
    tab.wait("document.querySelector('figure img')?.naturalWidth === 96")

    assert "The lungs are clear." in tab.evaluate("document.querySelector('.report').innerText")
    assert tab.evaluate("getComputedStyle(document.querySelector('.banner')).position") == "sticky"
    assert not tab.evaluate("document.cookie")
    assert tab.errors == []


def test_open_study_page_shows_a_new_report_without_reload(
    tab: Tab, address: str, key: str, arrivals: Arrivals
) -> None:
    study_id = arrivals.queued()
    log_in(tab, address, key, f"/studies/{study_id}")
    before = tab.evaluate("document.querySelector('.report')")
    arrivals.report(study_id)

    assert before is None
    tab.wait("document.querySelector('.report')?.innerText.includes('The lungs are clear.')")
    assert tab.errors == []


def test_work_list_refreshes_without_scripts(tab: Tab, address: str, key: str, arrivals: Arrivals) -> None:
    log_in(tab, address, key)
    tab.without_scripts()
    tab.open(f"{address}/")
    arrivals.receiving(patient_name="Doe^Jane")

    tab.wait("document.body.innerText.includes('Doe, Jane')")
