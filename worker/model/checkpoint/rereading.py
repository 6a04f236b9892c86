"""Read a checkpoint's files again in the background, once per start, to find bits that changed on disk.

A worker does not read files that look unchanged, and a disk changes bits without changing a time.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from worker.model.checkpoint import file_digests

if TYPE_CHECKING:
    from pathlib import Path

    from worker.model.checkpoint.manifest import Manifest

log = structlog.get_logger()

#: Bytes read at a time, and in a second: 80 GB take 22 minutes, and a disk for images stays free for most of its time.
PIECE, BYTES_PER_SECOND = 2**23, 60 * 10**6
#: Lowest priority of a thread; Linux derives the priority of its reads from it.
LOWEST_PRIORITY = 19


class Rereading:
    """One background reading of all files of a manifest; `damaged` is the first file that differs, else empty."""

    def __init__(self, directory: Path, manifest: Manifest, *, bytes_per_second: float = BYTES_PER_SECOND) -> None:
        self.damaged = ""
        self._directory, self._manifest, self._rate = directory, manifest, bytes_per_second
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rereading", daemon=True)

    def start(self) -> Rereading:
        """Start to read."""
        self._thread.start()
        return self

    def join(self, timeout: float | None = None) -> None:
        """Wait until all files are read, or for *timeout* seconds."""
        self._thread.join(timeout)

    def close(self) -> None:
        """Stop reading."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        for name, expected in self._manifest.files.items():
            try:
                found = self._digest(self._directory / name)
            except OSError as error:
                found = type(error).__name__
            if self._stopping.is_set():
                return
            if found != expected["sha256"]:
                # The next start must read this file, although it looks unchanged.
                file_digests.forget(self._directory)
                self.damaged = name
                log.critical("checkpoint.damaged", file=name, meaning="no report is written until it is restored")
                return
        log.info("checkpoint.reread", files=len(self._manifest.files))

    def _digest(self, path: Path) -> str:
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            # Pages in memory would hide what the disk returns; those that another process maps stay.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while piece := file.read(PIECE):
                started = time.monotonic()
                digest.update(piece)
                if self._stopping.wait(max(0.0, len(piece) / self._rate - (time.monotonic() - started))):
                    break
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return digest.hexdigest()
