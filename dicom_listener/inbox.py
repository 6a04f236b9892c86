"""Objects on their way into the inbox: one flush each, and durable by what POSIX promises.

The usual way costs two flushes in a row: sync the file, rename it, sync the directory. Here the directory is synced in
advance: empty files `<uuid>.part` are made by the dozen, their names synced together. An object is written into one,
sealed (dicom_listener.file_meta) and synced: from then on it survives a power cut under that name. The name
`<uuid>.dcm`, by which the indexer finds it, is linked beside the first without waiting for a flush; the first is
removed when a later flush has covered the second. After a crash, a `.part` with an unbroken seal is an object, any
other is nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import uuid
from collections import deque
from typing import TYPE_CHECKING

import structlog

from db.errors import ConfigurationError
from dicom_listener import file_meta
from dicom_listener.refusals import OutOfResources
from dicom_listener.storage import COMPLETE, PART, DirectorySync

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dicom_listener.storage import Spool

log = structlog.get_logger()

#: Empty files made in advance: what eight senders of small objects need during the slowest flush seen (20 ms).
AHEAD = 64
#: Seconds until names that nobody needs any longer are removed.
TEND_SECONDS = 1.0
#: Bytes that must stay free: the database and the logs often share the disk, and must be able to say that it is full.
RESERVED_BYTES = 512 * 2**20


class Inbox:
    """Takes the objects of all associations. One process at a time may own a spool's inbox."""

    def __init__(self, spool: Spool) -> None:
        self._directory = spool.inbox
        self._lock_path = spool.root / "listener.lock"
        self._lock: int | None = None
        self._sync = DirectorySync(spool.inbox)
        self._ready: deque[Path] = deque()
        self._kept: deque[Path] = deque()
        self._tending = threading.Thread(target=self._tend, name="dicom-inbox")
        self._wake = threading.Event()
        self._closed = False

    def open(self) -> tuple[int, int]:
        """Take possession; returns how many objects of an earlier listener were found complete, and how many not.

        Raises ConfigurationError where another listener runs on this spool.
        """
        self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise ConfigurationError(f"another listener runs on {self._directory.parent}") from None
        recovered = self._recover()
        self._prepare(AHEAD)
        self._tending.start()
        return recovered

    def close(self) -> None:
        """Tidy up and give the inbox free."""
        self._closed = True
        self._wake.set()
        self._tending.join()
        with contextlib.suppress(OSError):  # what a broken disk leaves, the next start looks through
            self._remove_kept()
            for path in self._ready:
                path.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)

    def begin(self, head: bytes) -> Arrival:
        """A file for an object whose file begins with *head*; raises OutOfResources."""
        with disk_errors():
            disk = os.statvfs(self._directory)
            if disk.f_bavail * disk.f_frsize < RESERVED_BYTES:
                raise OutOfResources("the disk is full")
            return Arrival(self._take(), head, self._kept)

    def _take(self) -> Path:
        while True:
            try:
                path = self._ready.popleft()
            except IndexError:  # a burst: who comes now waits for a flush of his own, shared with the others
                self._prepare(1)
                continue
            if len(self._ready) < AHEAD // 2:
                self._wake.set()
            return path

    def _prepare(self, count: int) -> None:
        if count <= 0:
            return
        made = [self._directory / f"{uuid.uuid4().hex}{PART}" for _ in range(count)]
        for path in made:
            path.touch(mode=0o600, exist_ok=False)
        self._sync()
        self._ready.extend(made)

    def _tend(self) -> None:
        while not self._closed:
            self._wake.wait(TEND_SECONDS)
            self._wake.clear()
            try:
                self._prepare(AHEAD - len(self._ready))
                self._remove_kept()
            except OSError as error:
                # The next object meets the same disk, and its sender is told.
                log.error("inbox.disk_failed", why=error.strerror)  # noqa: TRY400 - not a fault of ours
                self._wake.wait(TEND_SECONDS)

    def _remove_kept(self) -> None:
        """Remove the first names of objects whose second names are durable by now."""
        kept = [self._kept.popleft() for _ in range(len(self._kept))]
        if kept:
            self._sync()
        for path in kept:
            path.unlink(missing_ok=True)

    def _recover(self) -> tuple[int, int]:
        parts = list(self._directory.glob(f"*{PART}"))
        whole = [path for path in parts if file_meta.is_whole(path)]
        for path in whole:
            with contextlib.suppress(FileExistsError):
                os.link(path, path.with_suffix(COMPLETE))
        self._sync()
        for path in parts:
            path.unlink()
        return len(whole), len(parts) - len(whole)


class Arrival:
    """One object on its way to the disk: `write` as it comes, then either `keep` or `drop`."""

    def __init__(self, part: Path, head: bytes, kept: deque[Path]) -> None:
        self._part = part
        self._kept = kept
        self._head: bytes = head
        self._seal_at = len(head) - file_meta.SEAL.size
        self._crc = file_meta.checksum(head[: self._seal_at])
        self._bytes = 0
        self._descriptor: int | None = os.open(part, os.O_WRONLY | os.O_CLOEXEC)

    def write(self, fragment: bytes | memoryview) -> None:
        """Append bytes of the data set; raises OutOfResources."""
        self._crc = file_meta.checksum(fragment, self._crc)
        with disk_errors():
            self._append((self._head, fragment))
        self._head = b""

    def keep(self) -> Path:
        """Make the object durable and let the indexer find it; raises OutOfResources, and then it is not there."""
        final = self._part.with_suffix(COMPLETE)
        with disk_errors(), self._dropped_on_error():
            self._append((self._head,))
            os.pwrite(self._open, file_meta.seal(self._bytes, self._crc), self._seal_at)
            os.fdatasync(self._open)
            self._close()
            os.link(self._part, final)
        self._kept.append(self._part)
        return final

    def drop(self) -> None:
        """Remove the object; harmless after `keep` and when repeated."""
        if self._descriptor is not None:
            self._close()
            self._part.unlink(missing_ok=True)

    @property
    def _open(self) -> int:
        assert self._descriptor is not None, "written to after keep or drop"  # noqa: S101 - a fault of ours
        return self._descriptor

    def _append(self, buffers: Sequence[bytes | memoryview]) -> None:
        wanted = sum(map(len, buffers))
        written = os.writev(self._open, buffers) if wanted else 0
        self._bytes += written
        if written < wanted:  # a disk that fills up: the next write says so
            self._append((memoryview(b"".join(buffers))[written:],))

    def _close(self) -> None:
        descriptor, self._descriptor = self._open, None
        os.close(descriptor)

    @contextlib.contextmanager
    def _dropped_on_error(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            # After a failed flush nobody knows what the file holds; the sender is told to send it again.
            with contextlib.suppress(OSError):
                self.drop()
                self._part.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn what the disk says into the refusal the sender understands."""
    try:
        yield
    except OSError as error:
        raise OutOfResources(f"the disk cannot hold the object: {error.strerror}") from error
