"""`prelim ready` and `prelim live`, which use the standard library only."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING, Any

import pytest

from db.operations.probes import status_socket
from db.operations.probes.status_socket import NEVER, HealthCheck, Loop
from db.settings import Settings
from deploy.embedded.server_process import free_port
from deploy.launcher import role_probe
from deploy.launcher.processes import PROCESSES
from deploy.launcher.role_probe import problem
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HERE = f"{socket.gethostname()}:{os.getpid()}"
SERVED = ["dispatcher", "worker"]


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRELIM_DATA_DIR", str(tmp_path))
    return tmp_path


def write(folder: Path, slot: str, *, age: float = 0, **values: Any) -> None:
    """Write the status of a process of this machine, *age* seconds old."""
    path = folder / "spool" / "slots" / slot / "listener.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"process": HERE, "parent": None} | values))
    os.utime(path, (time.time() - age, time.time() - age))


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Answer each connection with *answer*; yield the port."""

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(answer)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def good(role: str) -> tuple[bool, bool]:
    """Return whether *role* is live, and ready."""
    return not problem("live", role), not problem("ready", role)


def test_single_listener_is_ready_while_its_status_is_fresh(tmp_path: Path) -> None:
    assert good("listener") == (False, False), "it has never run"
    write(tmp_path, "host-0")
    assert good("listener") == (True, True)
    write(tmp_path, "host-0", age=60)
    assert good("listener") == (False, False)


def test_listener_of_another_host_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, "host-0", process="elsewhere:7")
    assert good("listener") == (False, False)


def test_listener_that_was_killed_is_neither_live_nor_ready(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        found = f"{socket.gethostname()}:{process.pid}"
        write(tmp_path, "host-0", process=found)
        write(tmp_path, "host-1", parent={"process": found})
        assert good("listener") == (True, True)
        process.kill()
        # It has ended, but its parent has not waited for it.
        wait_until(lambda: good("listener") == (False, False))
    assert good("listener") == (False, False)


def test_replaced_listener_is_live_but_not_ready(tmp_path: Path) -> None:
    write(tmp_path, "host-0", draining=True)
    assert good("listener") == (True, False)


def test_one_of_several_processes_suffices(tmp_path: Path) -> None:
    parent = {"process": HERE}
    write(tmp_path, "host-0", parent=parent, age=60)
    write(tmp_path, "host-1", parent=parent)
    assert good("listener") == (True, True)


def test_listener_whose_disk_refuses_writes_is_live_but_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "host-0", age=60)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert good("listener") == (True, False)
    assert "cannot be written" in problem("ready", "listener")
    write(tmp_path, "host-0", age=60, process=f"{socket.gethostname()}:{2**22 + 1}")
    assert good("listener") == (False, False), "no such process"


@pytest.mark.parametrize("role", SERVED)
@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (HealthCheck("it", 1, ready_seconds=2, live_seconds=9), (True, True)),
        (HealthCheck("it", 3, ready_seconds=2, live_seconds=9), (True, False)),
        (HealthCheck("it", NEVER, ready_seconds=0), (True, False)),
        (HealthCheck("it", 10, ready_seconds=2, live_seconds=9), (False, False)),
    ],
)
def test_process_reports_its_checks(tmp_path: Path, role: str, check: HealthCheck, expected: tuple[bool, bool]) -> None:
    assert good(role) == (False, False), "it does not run"
    served = status_socket.serve(role, tmp_path, lambda: [HealthCheck("fine", 0, 0), check])
    assert good(role) == expected
    assert problem("ready", role).startswith("" if expected[1] else check.problem)
    assert good("worker" if role == "dispatcher" else "dispatcher") == (False, False)
    status_socket.close(served)
    assert good(role) == (False, False)


def test_another_data_directory_has_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = status_socket.serve("worker", tmp_path, list)
    monkeypatch.setenv("PRELIM_DATA_DIR", str(tmp_path / "other"))
    assert good("worker") == (False, False)
    status_socket.close(served)


def test_process_that_gives_no_answer_is_not_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_socket, "ANSWER_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as suspended:  # the kernel accepts the connection
        suspended.bind(f"\0{status_socket._prefix('worker', tmp_path)}7.0")
        suspended.listen()
        assert problem("live", "worker") == "process 7 gives no answer"


def test_loop_that_fails_is_live_but_not_ready() -> None:
    loop = Loop("the loop")
    loop.passed(failed=True)
    assert status_socket.condition(loop.checks(1, 2)) == (True, False, "the loop has not succeeded")
    loop.passed()
    assert status_socket.condition(loop.checks(1, 2)) == (True, True, "")
    loop._passed -= 3
    assert status_socket.condition(loop.checks(1, 2)) == (False, False, "the loop has made no pass for 3 s")


@pytest.mark.parametrize(
    ("role", "answer", "expected"),
    [
        ("api", b'HTTP/1.1 200 OK\r\n\r\n{"status":"ok","database":"ok"}', (True, True)),
        ("api", b'HTTP/1.1 503 No\r\n\r\n{"status":"degraded","database":"ok"}', (False, True)),
        ("api", b'HTTP/1.1 200 OK\r\n\r\n{"database":"unreachable"}', (True, False)),
        ("flower", b"HTTP/1.1 200 OK\r\n\r\nOK", (True, True)),
        ("flower", b"HTTP/1.1 500 No\r\n\r\n", (True, False)),
        ("flower", b"", (False, False)),
    ],
)
def test_server_is_checked_over_http(
    role: str, answer: bytes, expected: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(answer) as port:
        monkeypatch.setenv(f"PRELIM_{role}_PORT".upper(), str(port))
        monkeypatch.setenv(f"PRELIM_{role}_HOST".upper(), "0.0.0.0")
        assert good(role) == expected


@pytest.mark.parametrize("role", ["api", "flower"])
def test_server_that_does_not_answer_is_not_live(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(role_probe, "ANSWER_SECONDS", 0.1)
    monkeypatch.setenv(f"PRELIM_{role}_PORT".upper(), str(free_port()))
    assert good(role) == (False, False)
    with socket.create_server(("127.0.0.1", 0)) as suspended:
        monkeypatch.setenv(f"PRELIM_{role}_PORT".upper(), str(suspended.getsockname()[1]))
        assert good(role) == (False, False)


def test_settings_are_those_of_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRELIM_DATA_DIR")
    assert {name: str(Settings().by_name()[name]) for name in role_probe.DEFAULTS} == role_probe.DEFAULTS
    assert [process.name for process in PROCESSES] == list(role_probe.ROLES)
    monkeypatch.setattr(role_probe, "SECRETS", str(tmp_path))
    (tmp_path / "prelim_api_port").write_text("81\n")
    assert role_probe.setting("api_port") == "81"
    monkeypatch.setenv("prelim_API_port", "82")
    assert role_probe.setting("api_port") == "82", "the environment takes precedence"
