"""Start one child process of the launcher, forward its lines and end it with its process group."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO

from db.errors import ConfigurationError
from deploy.spawn import spawn

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence

POLL_SECONDS = 0.05
DRAIN_SECONDS = 2.0  # a pipe without writers is read to its end immediately
COLOURS = (36, 33, 32, 35, 34, 31)  # ANSI foregrounds (ECMA-48 8.3.117); one per process and one for the launcher


class Lines:
    """Writer of complete lines with the name of their process in front, coloured on a terminal."""

    def __init__(self, names: Sequence[str], stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()
        width = max(map(len, names))
        self._prefixes = {name: f"{name:{width}} | " for name in names}
        if self._stream.isatty():
            for index, (name, prefix) in enumerate(self._prefixes.items()):
                self._prefixes[name] = f"\x1b[{COLOURS[index % len(COLOURS)]}m{prefix}\x1b[0m"

    def write(self, name: str, line: str) -> None:
        """Write one *line* of the process *name*."""
        # A closed pipe (`| head`, or `| tee` that got the same Ctrl-C) must not prevent an orderly stop.
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._stream.write(f"{self._prefixes[name]}{line}\n")
            self._stream.flush()


class Child:
    """Command that can be started, watched and ended with its process group; use from the main thread only."""

    def __init__(self, name: str, command: Sequence[str], lines: Lines, environment: Mapping[str, str]) -> None:
        self.name = name
        self.command = command
        self._lines = lines
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self._pump: threading.Thread | None = None
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """True if the process has been started and has not ended."""
        return self.process is not None and not has_ended(self.process)

    @property
    def status(self) -> int | None:
        """Exit status as in subprocess: negative for a signal, None while it runs."""
        return self.process.returncode if self.process else None

    def start(self) -> None:
        """Start it, ending an earlier run; the kernel kills it when this process ends."""
        self.end(0, lambda: True)
        self.process = spawn(
            [find_program(self.command[0]), *self.command[1:]], death_signal=signal.SIGKILL, env=self._environment
        )
        assert self.process.stdout  # noqa: S101 - spawn opens a pipe by default
        self._pump = threading.Thread(target=self._forward, args=[self.process.stdout], daemon=True)
        self._pump.start()

    def end(self, grace_seconds: float, force: Callable[[], bool]) -> bool:
        """Send SIGTERM, and SIGKILL after *grace_seconds* or once *force()*; return whether SIGTERM was enough."""
        if self.process is None:
            return True
        signal_group(self.process, signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while not has_ended(self.process) and time.monotonic() < deadline and not force():
            time.sleep(POLL_SECONDS)
        ended = has_ended(self.process)
        self.reap()
        self.process = None
        return ended

    def reap(self) -> None:
        """Kill the rest of its process group and record its exit status."""
        if self.process is None or self.process.returncode is not None:
            return
        signal_group(self.process, signal.SIGKILL)
        self.process.wait()
        if self._pump:
            self._pump.join(DRAIN_SECONDS)

    def _forward(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                self._lines.write(self.name, line.decode(errors="replace").rstrip())


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether *process* has ended; it stays a zombie, so that its group id is not reused."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send *number* to the process group of *process*, which must not have been waited for."""
    if process.returncode is None:
        os.killpg(process.pid, number)


def find_program(name: str) -> str:
    """Return the path of *name*: beside this Python first, because a virtual environment may not be on PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    program = shutil.which(name, path=path)
    if program is None:
        raise ConfigurationError(f"program not found: {name}; install Prelim with `pip install .`")
    return program
