"""Condition of a process, served to health probes over a Unix socket in the abstract namespace.

A probe runs every few seconds, so it must not import more than the standard library, and so must this module. No file
and no database: the answer does not depend on a disk that is read-only or a server that hangs, and a process that is
suspended gives none. `prelim ready` and `prelim live` read it (deploy.launcher.role_probe).
"""

from __future__ import annotations

import binascii
import errno
import itertools
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

#: Seconds for an answer; a suspended process accepts the connection, because the kernel does, and gives none.
ANSWER_SECONDS = 3.0
#: Longest answer in bytes.
MAX_BYTES = 400
#: Errors after which a connection can be accepted later.
NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
NEVER = float("inf")
#: Flags of a listening socket in /proc/net/unix, and the fields of a row with a name.
LISTENING, FIELDS = "00010000", 8
_numbers = itertools.count()


class HealthCheck(NamedTuple):
    """A problem, the seconds for which it has lasted, and the seconds up to which a process is ready and live."""

    problem: str
    seconds: float
    ready_seconds: float
    live_seconds: float = NEVER


class Condition(NamedTuple):
    """A live process needs no restart; a ready one can do its work. The *cause* is that of the first failed check."""

    live: bool
    ready: bool
    cause: str = ""


class Loop:
    """Progress of a loop of this process: the times of its last pass, and of its last one without a failure."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._passed = time.monotonic()
        self._succeeded = -NEVER

    def passed(self, *, failed: bool = False) -> None:
        """Note that a pass has ended."""
        self._passed = time.monotonic()
        if not failed:
            self._succeeded = self._passed

    def checks(self, ready_seconds: float, live_seconds: float) -> Iterable[HealthCheck]:
        """Yield the checks of a loop that makes no pass, and of one whose passes fail."""
        now = time.monotonic()
        yield HealthCheck(f"{self._name} has made no pass", now - self._passed, ready_seconds, live_seconds)
        yield HealthCheck(f"{self._name} has not succeeded", now - self._succeeded, ready_seconds)


def condition(checks: Iterable[HealthCheck]) -> Condition:
    """Return the condition of a process with these *checks*."""
    bad = [check for check in checks if check.seconds > min(check.ready_seconds, check.live_seconds)]
    live = all(check.seconds <= check.live_seconds for check in bad)
    return Condition(live, not bad, _text(bad[0]) if bad else "")


def _text(check: HealthCheck) -> str:
    return check.problem if check.seconds == NEVER else f"{check.problem} for {check.seconds:.0f} s"


def serve(role: str, data_dir: Path, checks: Callable[[], Iterable[HealthCheck]]) -> socket.socket:
    """Serve the condition of this process in a thread until `close`; raises OSError."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"\0{_prefix(role, data_dir)}{os.getpid()}.{next(_numbers)}")
    listening.listen()
    threading.Thread(target=_answer, args=(listening, checks), name="status", daemon=True).start()
    return listening


def close(listening: socket.socket) -> None:
    """End the service."""
    with listening:
        listening.shutdown(socket.SHUT_RDWR)  # wakes its thread


def _answer(listening: socket.socket, checks: Callable[[], Iterable[HealthCheck]]) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError as error:
            if error.errno not in NO_DESCRIPTOR:
                return
            time.sleep(1)
            continue
        with connection:
            live, ready, cause = condition(checks())
            try:
                connection.settimeout(ANSWER_SECONDS)
                connection.sendall(f"{live:d} {ready:d} {cause}"[:MAX_BYTES].encode())
            except OSError:  # the probe has gone
                continue


def ask(role: str, data_dir: Path | str) -> list[Condition]:
    """Return the conditions of the processes of this machine as *role* with this data directory."""
    return [_ask(name) for name in _names(_prefix(role, data_dir))]


def _ask(name: str) -> Condition:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.connect(f"\0{name}")
            live, ready, cause = connection.recv(MAX_BYTES).decode(errors="replace").split(" ", 2)
        except (OSError, ValueError):
            pid = name.rpartition("/")[2].partition(".")[0]
            return Condition(live=False, ready=False, cause=f"process {pid} gives no answer")
    return Condition(live == "1", ready == "1", cause)


def _names(prefix: str) -> list[str]:
    with open("/proc/net/unix") as table:  # noqa: PTH123 - pathlib takes longer to import
        rows = [line.split() for line in table]
    return [row[7][1:] for row in rows if len(row) == FIELDS and row[3] == LISTENING and row[7][1:].startswith(prefix)]


def _prefix(role: str, data_dir: Path | str) -> str:
    """Begin of the names of sockets.

    The namespace of processes is in it: containers that share a network have the same process ids and directories.
    """
    place = binascii.crc32(os.path.realpath(data_dir).encode())
    return f"prelim/{role}/{place:08x}/{os.stat('/proc/self/ns/pid').st_ino}/"  # noqa: PTH116 - as above
