"""Clients that hold connections without a request: they are closed in time and exclude no other client."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from api.server import connections, forking
from api.server.connections import Connections, Phase, limited
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVE = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
from api.server.serve import run
from deploy.cli.startup import process_settings
run(process_settings())
"""
HALF_OPEN = 1100
LARGE = bytes(20_000_000)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer /large with a large body, /late after a while, and everything else after the whole request."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": LARGE if scope["path"] == "/large" else b"answer"})


@pytest.fixture
def limits() -> Connections:
    """Limits of a small server."""
    return Connections(maximum=8, waiting_per_address=4)


@pytest.fixture
def port(limits: Connections) -> Iterator[int]:
    """Port of a running server with these limits."""

    class Server(uvicorn.Server):
        async def on_tick(self, counter: int) -> bool:
            limits.sweep()  # ten times a second
            return await super().on_tick(counter)

    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(uvicorn.Config(app, http=limited(limits), log_config=None))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield int(listening.getsockname()[1])
    server.should_exit = server.force_exit = True
    thread.join()


def connect(port: int, sent: bytes = b"") -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", port), timeout=10)
    opened.sendall(sent)
    return opened


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def status(port: int, path: str = "/") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


def shorten(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.3) -> None:
    for phase in (Phase.HEAD, Phase.BODY, Phase.READING):
        monkeypatch.setattr(phase, "seconds", seconds)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: prelim\r\nX-", id="half a head"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: prelim\r\nContent-Length: 10\r\n\r\nhalf", id="half a body"),
    ],
)
def test_slow_request_is_closed(port: int, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    shorten(monkeypatch)
    with connect(port, sent) as slow:
        assert is_closed(slow)


def test_response_that_is_not_read_is_closed(port: int, limits: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    with connect(port, b"GET /large HTTP/1.1\r\nHost: prelim\r\n\r\n"):
        wait_until(lambda: len(limits) == 1)
        wait_until(lambda: len(limits) == 0)


def test_connection_is_kept_between_requests(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        for _ in range(3):
            connection.request("POST", "/", body=b"whole")
            assert connection.getresponse().read() == b"answer"


def test_one_more_of_an_address_closes_the_oldest(port: int, limits: Connections) -> None:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(connect(port, b"G")) for _ in range(4)]
        assert status(port) == 200
        assert is_closed(opened[0])
        wait_until(lambda: len(limits) == 3)


def test_failures_are_counted_in_one_line(
    port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LOG_SECONDS", 3600)
    for _ in range(40):
        with connect(port, b"\0\r\n\r\n") as invalid:
            assert b"400 Bad Request" in invalid.recv(1000)
    wait_until(lambda: "connections.closed" in (lines := capsys.readouterr()).out and len(lines.out.splitlines()) == 1)
    assert capsys.readouterr() == ("", "")


def test_1100_half_open_connections_leave_the_page_usable(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    port = free_port()
    environment = {**os.environ, "PRELIM_API_PORT": str(port), "PRELIM_DATA_DIR": str(tmp_path)}
    server = subprocess.Popen([sys.executable, "-c", SERVE], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: answers(port))
        with contextlib.ExitStack() as stack:
            for number in range(HALF_OPEN):
                stack.enter_context(connect(port, b"GET /" if number % 2 else b""))
            started = time.monotonic()
            assert [status(port, "/login") for _ in range(3)] == [200] * 3
            assert time.monotonic() - started < 5
    finally:
        server.terminate()
        _, written = server.communicate()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(written.splitlines()) < 15, written


def answers(port: int) -> bool:
    try:
        return status(port, "/login") == 200
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_answers_are_sent_without_waiting_for_the_acknowledgement_of_earlier_packets() -> None:
    (own,) = forking.listening("127.0.0.1", 0, 1)
    with own, socket.create_connection(own.getsockname()), own.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
