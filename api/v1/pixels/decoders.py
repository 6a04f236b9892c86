"""Processes that decode stored frames for the API; a frame that takes too long, or ends its process, is refused.

They get no environment of the API's, which holds its credentials: the files that they read come from outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from queue import Empty, LifoQueue
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

log = structlog.get_logger()

#: Program of a process; the docstring of its module has the contract of its input and output.
COMMAND = (sys.executable, "-m", "worker.images.frame_server")
ROOT = Path(__file__).parents[3]
#: Processes; each takes about 60 MB, and up to 1 GiB while it decodes.
PROCESSES = 2
#: Requests that may wait for a process: more would hold the threads of other routes.
MAX_WAITING = 12
#: Seconds to wait for a process, and for a frame: the largest ones allowed take about 5 s.
WAIT_SECONDS, FRAME_SECONDS = 10.0, 20.0
#: Exit status of a program whose imports fail.
NOT_IMPORTED = 1
_HEAD = struct.Struct("<BQ")
_PIECE = 1 << 20


class NoPicture(Exception):
    """Raised for a frame that cannot be shown, with the stable code and a sentence without patient data."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


class Busy(Exception):
    """Raised if no process becomes free in time."""


class Decoders:
    """Decoding processes of one application, the first by `warm`, others when needed; use it in threads."""

    def __init__(self, command: Sequence[str] = COMMAND, frame_seconds: float = FRAME_SECONDS) -> None:
        self._command, self._frame_seconds = command, frame_seconds
        #: The one used last first, which is running.
        self._free: LifoQueue[_Decoder | None] = LifoQueue()
        for _ in range(PROCESSES):
            self._free.put(None)
        # Also at the end of the interpreter.
        weakref.finalize(self, _close, self._free)
        self._waiting = threading.BoundedSemaphore(PROCESSES + MAX_WAITING)

    def warm(self) -> None:
        """Start a process without waiting for it, unless one runs or is busy: its imports take 0.4 s."""
        with contextlib.suppress(Empty):
            decoder = self._free.get_nowait()
            if decoder is not None and not decoder.is_alive():
                decoder.end()
                decoder = None
            self._free.put(decoder or self._start())

    def message(self, path: Path, frame: int) -> bytes:
        """Return the message of *frame* (from 0) of a stored file. Raises NoPicture and Busy."""
        if not self._waiting.acquire(blocking=False):
            raise Busy
        try:
            return self._message(path, frame)
        finally:
            self._waiting.release()

    def _message(self, path: Path, frame: int) -> bytes:
        try:
            decoder = self._free.get(timeout=WAIT_SECONDS)
        except Empty:
            raise Busy from None
        try:
            if decoder is not None and not decoder.is_alive():
                decoder.end()
                decoder = None
            if decoder is None:
                decoder = self._start()
            return decoder.message(path, frame)
        except _Ended as error:
            log.warning("frame.refused", cause=str(error))
            decoder = None
            if error.status == NOT_IMPORTED:
                raise NoPicture(
                    "undecodable", "this server has no decoders: an operator must install prelim[images]"
                ) from error
            with contextlib.suppress(OSError):
                # For the next request.
                decoder = self._start()
            raise NoPicture("undecodable", "decoding it was ended: it took too long, or ended its process") from error
        finally:
            self._free.put(decoder)

    def _start(self) -> _Decoder:
        return _Decoder(self._command, self._frame_seconds)


def _close(free: LifoQueue[_Decoder | None]) -> None:
    with contextlib.suppress(Empty):
        while True:
            if decoder := free.get_nowait():
                decoder.end()


class _Ended(Exception):
    """Raised if the process has ended, or was ended because of its time, with its exit status if known."""

    def __init__(self, cause: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(cause)


class _Decoder:
    def __init__(self, command: Sequence[str], frame_seconds: float) -> None:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(ROOT)}
        self._frame_seconds = frame_seconds
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
        )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> int:
        """End the process and return its exit status: its own, if it has closed its output by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0.2)
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return self._process.wait()

    def message(self, path: Path, frame: int) -> bytes:
        """Return the message of a frame; raises NoPicture, and _Ended after ending the process."""
        asked = json.dumps({"path": str(path.absolute()), "frame": frame}).encode() + b"\n"
        try:
            kind, body = self._exchange(asked)
        except (OSError, _Ended) as error:
            status = self.end()
            raise _Ended(f"{error}, exit status {status}", status) from error
        if kind:
            problem: dict[str, Any] = json.loads(body)
            raise NoPicture(problem["reason"], problem["detail"])
        return body

    def _exchange(self, asked: bytes) -> tuple[int, bytes]:
        assert self._process.stdin is not None  # noqa: S101 - for mypy: it is a pipe
        assert self._process.stdout is not None  # noqa: S101 - see above
        self._process.stdin.write(asked)
        pieces = _pieces(self._process.stdout.fileno(), time.monotonic() + self._frame_seconds)
        received = bytearray(next(pieces))
        while len(received) < _HEAD.size:
            received += next(pieces)
        kind, length = _HEAD.unpack_from(received)
        while len(received) < _HEAD.size + length:
            received += next(pieces)
        return kind, bytes(memoryview(received)[_HEAD.size :])


def _pieces(source: int, deadline: float) -> Iterator[bytes]:
    """Yield what a pipe gives until the deadline; raises _Ended at its end."""
    while True:
        ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise _Ended("too long")
        piece = os.read(source, _PIECE)
        if not piece:
            raise _Ended("ended")
        yield piece
