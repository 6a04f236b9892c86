"""One child of the launcher: its process group, its lines, its end."""

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
from deploy.launcher.spawn import spawn

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence

POLL_SECONDS = 0.05
DRAIN_SECONDS = 2.0  # a pipe whose writers are gone is read to its end in no time
COLOURS = (36, 33, 32, 35, 34, 31)  # ANSI foregrounds (ECMA-48 8.3.117); one for each process and one for us


class Lines:
    """Writes whole lines, each with the name of who said it; in colour on a terminal."""

    def __init__(self, names: Sequence[str], stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()
        width = max(map(len, names))
        self._prefixes = {name: f"{name:{width}} | " for name in names}
        if self._stream.isatty():
            for index, (name, prefix) in enumerate(self._prefixes.items()):
                self._prefixes[name] = f"\x1b[{COLOURS[index % len(COLOURS)]}m{prefix}\x1b[0m"

    def write(self, name: str, line: str) -> None:
        """Write one *line* of *name*."""
        # A reader that is gone (`| head`, or `| tee` that took the same Ctrl-C) must not keep us from an orderly stop.
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._stream.write(f"{self._prefixes[name]}{line}\n")
            self._stream.flush()


class Child:
    """A command that can be started, watched and ended with all it started itself; from the main thread only."""

    def __init__(self, name: str, command: Sequence[str], lines: Lines, environment: Mapping[str, str]) -> None:
        self.name = name
        self.command = command
        self._lines = lines
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self._pump: threading.Thread | None = None
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether it has been started and has not ended."""
        return self.process is not None and not has_ended(self.process)

    @property
    def status(self) -> int | None:
        """How it ended, as subprocess has it: negative is a signal; None while it runs."""
        return self.process.returncode if self.process else None

    def start(self) -> None:
        """Start it anew; its lines come out under its name, and nothing of it outlives us."""
        self.end(0, lambda: True)
        self.process = spawn(
            [find_program(self.command[0]), *self.command[1:]], orphaned=signal.SIGKILL, env=self._environment
        )
        assert self.process.stdout  # noqa: S101 - a pipe is what spawn gives
        self._pump = threading.Thread(target=self._forward, args=[self.process.stdout], daemon=True)
        self._pump.start()

    def end(self, grace_seconds: float, hurry: Callable[[], bool]) -> bool:
        """Ask it to end, insist after *grace_seconds* or once there is *hurry*; whether asking was enough."""
        if self.process is None:
            return True
        signal_group(self.process, signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while not has_ended(self.process) and time.monotonic() < deadline and not hurry():
            time.sleep(POLL_SECONDS)
        obeyed = has_ended(self.process)
        self.bury()
        self.process = None
        return obeyed

    def bury(self) -> None:
        """Kill what is left of it and its own children, and take note of its status."""
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
    """Whether *process* has ended; it stays a zombie, so that its group's number is not given to another."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send *number* to all that *process* started, itself included; it must not have been waited for."""
    if process.returncode is None:
        os.killpg(process.pid, number)


def find_program(name: str) -> str:
    """The path of *name*: beside our Python first, because a virtual environment need not be on PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    program = shutil.which(name, path=path)
    if program is None:
        raise ConfigurationError(f"There is no program {name} here: install Prelim with `pip install .`")
    return program
