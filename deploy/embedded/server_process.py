"""Base class of the embedded PostgreSQL and Redis: start, stop, password, port and log of one server process."""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections import deque
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
RETRY_SECONDS = 0.2  # the processes of a killed server need about this long to end
LOOPBACK = "127.0.0.1"
#: Latest ports of `free_port`: the kernel may choose one again that was closed a moment ago.
_returned: deque[int] = deque(maxlen=100)


class ServerError(PrelimError):
    """Raised when an embedded server cannot be started; its text holds the end of the server's log."""


class Server(ABC):
    """One server process on loopback with its files below *directory*, which no other user may enter.

    Call `start` and `stop` in any order, from the main thread; the port stays the same. A *port* of None means any
    free one. After a crash `start` restarts the server.
    """

    name: str
    stop_signals: tuple[signal.Signals, ...]  # in order of force
    transient_errors: tuple[str, ...]  # log texts after which another start can succeed

    def __init__(self, directory: Path, port: int | None = None) -> None:
        require_linux()
        self.directory = private_directory(directory.absolute(), None)
        self.account = service_account()
        self.process: subprocess.Popen[bytes] | None = None
        self.port = port or free_port()
        self._may_change_port = port is None

    @property
    @abstractmethod
    def url(self) -> str:
        """URL for clients, password included."""

    @abstractmethod
    def prepare(self) -> None:
        """Create the files that the first start needs; does nothing if they exist."""

    @abstractmethod
    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process with its output appended to the log."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether the server accepts a client with the password."""

    @property
    def password(self) -> str:
        """Password, generated at first use and stored in a file that only its owner can read."""
        path = self.directory / "password"
        if not path.exists():
            unfinished = path.with_suffix(".new")
            unfinished.touch(mode=0o600)
            unfinished.write_text(secrets.token_urlsafe(32))
            unfinished.rename(path)
        return path.read_text()

    @property
    def alive(self) -> bool:
        """True if the process has been started and has not ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def log_path(self) -> Path:
        """File that receives the server's output."""
        return self.directory / "log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it is ready; raises ServerError if it ends first or exceeds START_SECONDS.

        A process started before is stopped and, dead or alive, waited for: PostgreSQL, whose lock file names it, would
        count a zombie as running.
        """
        self.stop()
        self.prepare()
        deadline = time.monotonic() + START_SECONDS
        while True:
            log_offset = self.log_path.stat().st_size if self.log_path.exists() else 0
            self.process = self.launch()
            if self._is_ready_before(deadline):
                break
            self.stop()
            self._raise_unless_transient(log_offset, deadline)
            time.sleep(RETRY_SECONDS)
        self._may_change_port = False  # clients may hold it now
        log.info("server.started", server=self.name, port=self.port, pid=self.process.pid)

    def stop(self) -> None:
        """Stop the process and wait for its end; clients are disconnected, committed data is kept."""
        process = self.process
        if process is None:
            return
        for stop_signal in self.stop_signals:
            if process.poll() is not None:
                break
            process.send_signal(stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        self.process = None

    def _is_ready_before(self, deadline: float) -> bool:
        while self.alive and time.monotonic() < deadline:
            if self.is_ready():
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _raise_unless_transient(self, log_offset: int, deadline: float) -> None:
        """Raise ServerError with the log from *log_offset*, unless its error is transient and time is left."""
        with self.log_path.open("rb") as file:
            file.seek(log_offset)
            output = file.read().decode(errors="replace")
        if time.monotonic() > deadline or not any(error in output for error in self.transient_errors):
            raise ServerError(f"{self.name} did not start; {self.log_path} ends with:\n{output[-2000:]}")
        if self._may_change_port:
            self.port = free_port()

    def _account_directory(self, name: str) -> Path:
        return private_directory(self.directory / name, self.account)


def free_port() -> int:
    """Return a TCP port on loopback that was free a moment ago, another one at each call."""
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
        if port not in _returned:
            _returned.append(port)
            return port
