"""The server is killed and started again under open event streams: their clients get every event once, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest

from db.operations import history
from db.session import transaction
from tests.benchmarks.receivers import free_port
from tests.integration.api.page.conftest import open_tab, serving, tab  # noqa: F401 - fixtures
from tests.integration.api.page.test_reading import log_in_by_keyboard

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.api.arrivals import Arrivals
    from tests.integration.api.browser import Tab

pytestmark = pytest.mark.slow

#: Two starts of the server, each with a client that resumes.
STARTS = 3
#: A client of the browser's own that keeps the ids and kinds of what it gets.
CLIENT = """(() => {
  window.got = [];
  window.source = new EventSource("/v1/events");
  for (const kind of ["received", "state", "report", "resync"])
    window.source.addEventListener(kind, (event) => window.got.push([Number(event.lastEventId), kind]));
})()"""
OPEN = "window.source.readyState === EventSource.OPEN"


class Sent(NamedTuple):
    """Event as a client gets it."""

    position: int
    kind: str


class Client:
    """Client of the stream that resumes as a browser does."""

    def __init__(self, key: str) -> None:
        self._key = key
        self.last = ""
        self.got: list[Sent] = []

    def read(self, address: str, count: int) -> None:
        """Read *count* events; 0: only the place from which the stream goes on."""
        headers = {"Authorization": f"Bearer {self._key}"} | ({"Last-Event-ID": self.last} if self.last else {})
        with httpx.stream("GET", f"{address}/v1/events", headers=headers, timeout=60) as answer:
            kind, wanted = "", len(self.got) + count
            for line in answer.raise_for_status().iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                if name == "id":
                    self.last = value
                    self.got += [Sent(int(value), kind)] if kind else []
                    kind = ""
                    if len(self.got) >= wanted:
                        return


def published(url: str) -> list[Sent]:
    with transaction(url) as session:
        history.publish(session)
    with transaction(url) as session:
        return [Sent(event.position, event.kind) for event in history.since(session, 0)]


def test_client_gets_every_event_once_across_kills_of_the_server(
    database_url: str, tmp_path: Path, key: str, arrivals: Arrivals
) -> None:
    client, port = Client(key), free_port()
    for _ in range(STARTS):
        with serving(database_url, tmp_path, port) as (address, process):
            client.read(address, len(published(database_url)) - len(client.got))
            arrivals.queued()
            client.read(address, 1)
            process.kill()
        # Published after the next start.
        arrivals.receiving()
    with serving(database_url, tmp_path, port) as (address, _):
        client.read(address, len(published(database_url)) - len(client.got))

    assert client.got == published(database_url)
    assert "resync" not in {event.kind for event in client.got}


def test_browser_resumes_after_a_kill_of_the_server(
    database_url: str,
    tmp_path: Path,
    arrivals: Arrivals,
    tab: Tab,  # noqa: F811 - the fixture
) -> None:
    port = free_port()
    with serving(database_url, tmp_path, port) as (address, process):
        log_in_by_keyboard(tab, address, arrivals, "/")
        tab.evaluate(CLIENT)
        tab.wait(OPEN)
        arrivals.receiving()
        tab.wait("window.got.length")
        process.kill()
    arrivals.queued()
    with serving(database_url, tmp_path, port):
        tab.wait(OPEN)
        arrivals.receiving()
        expected = [list(event) for event in published(database_url)]
        tab.wait(f"window.got.length >= {len(expected)}")

        assert tab.evaluate("window.got") == expected
