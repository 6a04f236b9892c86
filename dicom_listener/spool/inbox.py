"""Objects on their way into the inbox: one flush each, and durable by what POSIX promises.

The usual way costs two flushes in a row: sync the file, rename it, sync the directory. Here the directory is synced in
advance: empty files `<uuid>.part` are made by the dozen, their names synced together. An object is written into one,
sealed (dicom_listener.spool.file_meta) and synced: from then on it survives a power cut under that name. The name
`<uuid>.dcm`, by which the indexer finds it, is linked beside the first without waiting for a flush; the first is
removed when a later flush has covered the second. After a crash, a `.part` with an unbroken seal is an object, any
other is nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from db.errors import ConfigurationError
from dicom_listener.dicom.statuses import OutOfResources
from dicom_listener.spool import file_meta
from dicom_listener.spool.durable import COMPLETE, PART, DirectorySync

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dicom_listener.spool.durable import Spool

log = structlog.get_logger()

#: Empty files made in advance: what eight senders of small objects need during the slowest flush seen (20 ms).
AHEAD = 64
#: Seconds until names that nobody needs any longer are removed.
TEND_SECONDS = 1.0
#: Bytes that must stay free: the database and the logs often share the disk, and must be able to say that it is full.
RESERVED_BYTES = 512 * 2**20
#: Seconds for which a look at the free space holds: in so short a time no network fills a tenth of the reserve.
ROOM_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Part:
    """An empty file whose name is durable, open for writing."""

    path: Path
    descriptor: int

    def remove(self) -> None:
        """Close and remove it."""
        os.close(self.descriptor)
        self.path.unlink(missing_ok=True)


class Inbox:
    """Takes the objects of all associations. One process at a time may own a spool's inbox."""

    def __init__(self, spool: Spool) -> None:
        self._directory = spool.inbox
        self._lock_path = spool.root / "listener.lock"
        self._lock: int | None = None
        self._sync = DirectorySync(spool.inbox)
        self._ready: deque[Part] = deque()
        #: First names of objects that have a second one.
        self.kept: deque[Path] = deque()
        self._tending = threading.Thread(target=self._tend, name="dicom-inbox")
        self._wake = threading.Event()
        self._closed = False
        self._look_again = 0.0

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
        self.forget_prepared()
        if self._lock is not None:
            os.close(self._lock)

    def begin(self, head: bytes) -> Arrival:
        """A file for an object whose file begins with *head*; raises OutOfResources."""
        with disk_errors():
            self.look_for_room()
            return Arrival(self._take(), head, self)

    def forget_prepared(self) -> None:
        """Remove the files made in advance: nobody comes any more, or their folder is not there any more."""
        for _ in range(len(self._ready)):
            # Another thread may have taken the last; what stays is removed by the next start.
            with contextlib.suppress(OSError, IndexError):
                self._ready.popleft().remove()

    def look_for_room(self) -> None:
        """Raise OutOfResources where no more than the reserve is free, at a look not long ago."""
        now = time.monotonic()
        if now < self._look_again:
            return
        disk = os.statvfs(self._directory)
        if disk.f_bavail * disk.f_frsize < RESERVED_BYTES:
            raise OutOfResources("the disk is full")
        self._look_again = now + ROOM_SECONDS

    def _take(self) -> Part:
        while True:
            try:
                part = self._ready.popleft()
            except IndexError:  # a burst: who comes now waits for a flush of his own, shared with the others
                self._prepare(1)
                continue
            if len(self._ready) < AHEAD // 2:
                self._wake.set()
            return part

    def _prepare(self, count: int) -> None:
        if count <= 0:
            return
        made: list[Part] = []
        try:
            for _ in range(count):
                path = self._directory / f"{uuid.uuid4().hex}{PART}"
                made.append(Part(path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)))
            self._sync()
        except OSError:
            for part in made:
                with contextlib.suppress(OSError):  # what stays is removed by the next start
                    part.remove()
            raise
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
        kept = [self.kept.popleft() for _ in range(len(self.kept))]
        try:
            if kept:
                self._sync()
            while kept:
                kept[-1].unlink(missing_ok=True)
                kept.pop()
        finally:
            self.kept.extend(kept)

    def _recover(self) -> tuple[int, int]:
        parts = list(self._directory.glob(f"*{PART}"))
        judged = {path: _is_whole(path) for path in parts}
        whole = [path for path in parts if judged[path]]
        for path in whole:
            with contextlib.suppress(FileExistsError):
                os.link(path, path.with_suffix(COMPLETE))
        self._sync()
        for path in parts:
            if judged[path] is not None:
                path.unlink()
        return len(whole), sum(found is False for found in judged.values())


class Arrival:
    """One object on its way to the disk: `write` as it comes, then either `keep` or `drop`."""

    def __init__(self, part: Part, head: bytes, inbox: Inbox) -> None:
        self._part = part.path
        self._descriptor: int | None = part.descriptor
        self._inbox = inbox
        self._head = head
        self._seal_at = len(head) - file_meta.SEAL.size
        self._crc = file_meta.checksum(head[: self._seal_at])
        self._bytes = 0
        #: Received, not yet given to the disk.
        self._unwritten: list[bytes | memoryview] = [head]

    def write(self, fragment: bytes | memoryview, *, last: bool = False) -> None:
        """Append bytes of the data set, the *last* ones no sooner than in `keep`; raises OutOfResources."""
        self._crc = file_meta.checksum(fragment, self._crc)
        self._unwritten.append(fragment)
        if not last:
            with disk_errors():
                self._append()

    def keep(self) -> Path:
        """Make the object durable and let the indexer find it; raises OutOfResources, and then it is not there."""
        final = self._part.with_suffix(COMPLETE)
        with disk_errors(), self._dropped_on_error():
            self._append_sealed()
            os.fdatasync(self._open)
            self._close()
            os.link(self._part, final)
        self._inbox.kept.append(self._part)
        return final

    def drop(self) -> None:
        """Remove the object; harmless after `keep` and when repeated."""
        if self._descriptor is None:
            return
        try:
            try:
                self._close()
            finally:
                self._part.unlink(missing_ok=True)
        except OSError as error:  # what stays is removed by the next start
            log.warning("inbox.part_not_removed", why=error.strerror)

    @property
    def _open(self) -> int:
        assert self._descriptor is not None, "written to after keep or drop"  # noqa: S101 - a fault of ours
        return self._descriptor

    def _append_sealed(self) -> None:
        size = self._bytes + _size(self._unwritten)
        seal = file_meta.seal(size, self._crc)
        if self._bytes:
            self._append()
            os.pwrite(self._open, seal, self._seal_at)
        else:  # all of it at once, as small objects come
            self._unwritten[0] = self._head[: self._seal_at] + seal
            self._append()

    def _append(self) -> None:
        self._inbox.look_for_room()
        while self._unwritten:
            written = os.writev(self._open, self._unwritten)
            self._bytes += written
            # Less than all: a disk that fills up. The next write says so.
            rest = memoryview(b"".join(self._unwritten))[written:] if written < _size(self._unwritten) else b""
            self._unwritten = [rest] if rest else []

    def _close(self) -> None:
        descriptor, self._descriptor = self._open, None
        os.close(descriptor)

    @contextlib.contextmanager
    def _dropped_on_error(self) -> Iterator[None]:
        try:
            yield
        except (OSError, OutOfResources) as error:
            if isinstance(error, FileNotFoundError):  # somebody replaced the folder, and took all of them away
                self._inbox.forget_prepared()
            # After a failed flush nobody knows what the file holds; the sender is told to send it again.
            self.drop()
            with contextlib.suppress(OSError):
                self._part.unlink(missing_ok=True)
            raise


def _is_whole(path: Path) -> bool | None:
    """Whether it is an object; None where the disk does not say: one bad block must not keep the listener down."""
    try:
        return file_meta.is_whole(path)
    except OSError as error:
        log.error("inbox.part_unreadable", file=path.name, why=error.strerror)  # noqa: TRY400 - not a fault of ours
        return None


def _size(buffers: Sequence[bytes | memoryview]) -> int:
    return sum(map(len, buffers))


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn what the disk says into the refusal the sender understands."""
    try:
        yield
    except OSError as error:
        raise OutOfResources(f"the disk cannot hold the object: {error.strerror}") from error
