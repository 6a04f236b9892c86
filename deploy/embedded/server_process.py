"""A server of our own, started in its directory: what PostgreSQL and Redis have in common."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

import structlog

from db.errors import PrelimError
from deploy.embedded.accounts import private_directory, require_linux, service_account

if TYPE_CHECKING:
    import signal
    from pathlib import Path

log = structlog.get_logger()

START_SECONDS = 60.0  # crash recovery replays at most max_wal_size, 1 GB: seconds on any disk
STOP_SECONDS = 20.0  # a fast shutdown writes one checkpoint of at most shared_buffers
POLL_SECONDS = 0.02
RETRY_SECONDS = 0.2  # the processes of a killed server need about this long to go
LOOPBACK = "127.0.0.1"


class ServerError(PrelimError):
    """Raised when an embedded server cannot be started; carries the end of its log."""


class Server(ABC):
    """One server process on loopback with its files below *directory*, which no other user may enter.

    `start` and `stop` at will, from the main thread; the port stays the same. A *port* of None is any free one. After
    a crash `start` brings it back.
    """

    name: str
    stop_signals: tuple[signal.Signals, ...]  # from gentle to certain
    passing_faults: tuple[str, ...]  # what the log says when another try can help

    def __init__(self, directory: Path, port: int | None = None) -> None:
        require_linux()
        self.directory = private_directory(directory.absolute(), None)
        self.account = service_account()
        self.process: subprocess.Popen[bytes] | None = None
        self.port = port or free_port()
        self._port_is_ours = port is None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it, password included."""

    @abstractmethod
    def prepare(self) -> None:
        """Make on disk what the first start needs; nothing when it is there."""

    @abstractmethod
    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process, its output appended to the log."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it serves a client that knows the password."""

    @property
    def password(self) -> str:
        """The password, made at the first use and kept in a file that only we can read."""
        path = self.directory / "password"
        if not path.exists():
            unfinished = path.with_suffix(".new")
            unfinished.touch(mode=0o600)
            unfinished.write_text(secrets.token_urlsafe(32))
            unfinished.rename(path)
        return path.read_text()

    @property
    def alive(self) -> bool:
        """Whether it has been started and has not ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def log_path(self) -> Path:
        """Where the server writes what it has to say."""
        return self.directory / "log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Return when it answers; raise ServerError when it ends before, or takes more than START_SECONDS.

        A process that was started before is stopped and, dead or alive, waited for: as a zombie it would still be
        "running" to PostgreSQL, whose lock file names it.
        """
        self.stop()
        self.prepare()
        deadline = time.monotonic() + START_SECONDS
        while True:
            said = self.log_path.stat().st_size if self.log_path.exists() else 0
            self.process = self.launch()
            if self._answers_before(deadline):
                break
            self.stop()
            self._raise_unless_passing(said, deadline)
            time.sleep(RETRY_SECONDS)
        self._port_is_ours = False  # clients know it now
        log.info("server_started", server=self.name, port=self.port, pid=self.process.pid)

    def stop(self) -> None:
        """Return when the process is gone; clients are cut off, what they committed is kept."""
        process = self.process
        if process is None:
            return
        for stop_signal in self.stop_signals:
            if process.poll() is not None:
                break
            process.send_signal(stop_signal)
            wait_for_end(process, STOP_SECONDS)
        self.process = None

    def _answers_before(self, deadline: float) -> bool:
        while self.alive and time.monotonic() < deadline:
            if self.answers():
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _raise_unless_passing(self, said: int, deadline: float) -> None:
        """Raise what the log says since byte *said*, unless that passes and there is time left."""
        with self.log_path.open("rb") as file:
            file.seek(said)
            words = file.read().decode(errors="replace")
        if time.monotonic() > deadline or not any(fault in words for fault in self.passing_faults):
            raise ServerError(f"{self.name} did not start; {self.log_path} ends with:\n{words[-2000:]}")
        if self._port_is_ours:
            self.port = free_port()

    def _account_directory(self, name: str) -> Path:
        return private_directory(self.directory / name, self.account)


def free_port() -> int:
    """A TCP port on loopback that nobody held a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def wait_for_end(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether *process* ended within *seconds*; if so it leaves no zombie."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
