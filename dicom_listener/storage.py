"""The spool: bytes to disk, durably, under names that no sender can choose.

    spool/inbox/<uuid>.part      being received
    spool/inbox/<uuid>.dcm       acknowledged, waits for its rows
    spool/store/<xx>/<uuid>.dcm  has its row in `instances`
    spool/quarantine/<uuid>.dcm  has its row in `quarantine`
    spool/associations/<id>      an open association that has sent objects

An object is acknowledged only when POSIX guarantees that it survives a power cut: its bytes are synced, then it gets
its final name, then the directory is synced.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_listener.refusals import OutOfResources

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PART = ".part"
COMPLETE = ".dcm"
#: Bytes that must stay free: the database and the logs often share the disk, and must be able to say that it is full.
RESERVED_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Spool:
    """Where received files lie."""

    root: Path

    @property
    def inbox(self) -> Path:
        """Acknowledged and being received."""
        return self.root / "inbox"

    @property
    def store(self) -> Path:
        """Indexed."""
        return self.root / "store"

    @property
    def quarantine(self) -> Path:
        """Acknowledged, but no instance of a study."""
        return self.root / "quarantine"

    @property
    def associations(self) -> Path:
        """One empty file for each open association."""
        return self.root / "associations"

    def prepare(self) -> None:
        """Make the folders, readable by our user only, and make sure that they stay."""
        shelves = (self.store / f"{number:02x}" for number in range(256))
        for folder in (self.inbox, self.store, *shelves, self.quarantine, self.associations):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_directory(self.store)
        sync_directory(self.root.parent)
        sync_directory(self.root)

    def clear_unfinished(self) -> int:
        """Remove what an earlier listener did not acknowledge, and its open associations; returns how many files."""
        for marker in self.associations.iterdir():
            marker.unlink()
        unfinished = list(self.inbox.glob(f"*{PART}"))
        for part in unfinished:
            part.unlink()
        return len(unfinished)

    def mark_open(self, association_id: str) -> None:
        """Let the dispatcher know that objects are coming in this association; renewed by each."""
        (self.associations / association_id).touch()

    def mark_closed(self, association_id: str) -> None:
        """Let the dispatcher know that no more come."""
        (self.associations / association_id).unlink(missing_ok=True)

    def open_associations(self) -> list[str]:
        """The associations in which objects may still come."""
        return [marker.name for marker in self.associations.iterdir()]

    def received(self, most: int) -> list[Path]:
        """Acknowledged files that wait for their rows, the oldest first."""
        with os.scandir(self.inbox) as entries:
            waiting = [(entry.stat().st_mtime_ns, entry.path) for entry in entries if entry.name.endswith(COMPLETE)]
        return [Path(path) for _, path in sorted(waiting)[:most]]

    def place(self, received: Path) -> Path:
        """Where an indexed file lies: 256 folders, so that none grows too long to list."""
        return self.store / received.name[:2] / received.name


def sync_directory(directory: Path) -> None:
    """Make the names in *directory* durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DirectorySync:
    """Makes the names in one directory durable, with one flush for all who wait at the same time.

    A flush that has failed once fails for ever: the kernel reports a lost write to one caller only, so that nobody can
    know afterwards what is on the disk. A restart looks again.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._condition = threading.Condition()
        self._flushed = 0
        self._flushing = False
        self._failure: OSError | None = None

    def __call__(self) -> None:
        """Return when every name made before this call is durable; raises OSError."""
        with self._condition:
            # A flush under way may have begun before our name was made: the next one counts.
            wanted = self._flushed + 1 + self._flushing
            while self._flushed < wanted and self._failure is None:
                if self._flushing:
                    self._condition.wait()
                else:
                    self._flush()
            if self._failure is not None:
                raise OSError(self._failure.errno, f"an earlier flush failed: {self._failure.strerror}")

    def _flush(self) -> None:
        self._flushing = True
        self._condition.release()
        failure = None
        try:
            sync_directory(self._directory)
        except OSError as error:
            failure = error
        self._condition.acquire()
        self._flushing = False
        self._failure = failure
        self._flushed += 1
        self._condition.notify_all()


class Inbox:
    """Takes objects from the associations."""

    def __init__(self, spool: Spool) -> None:
        self._directory = spool.inbox
        self._sync = DirectorySync(spool.inbox)

    def begin(self, head: bytes) -> Arrival:
        """Open a file for an object whose file begins with *head*; raises OutOfResources."""
        with _disk_errors():
            disk = os.statvfs(self._directory)
            if disk.f_bavail * disk.f_frsize < RESERVED_BYTES:
                raise OutOfResources("the disk is full")
            return Arrival(self._directory / uuid.uuid4().hex, head, self._sync)


class Arrival:
    """One object on its way to the disk: `write` as it comes, then either `keep` or `drop`."""

    def __init__(self, path: Path, head: bytes, sync: DirectorySync) -> None:
        self._path = path
        self._sync = sync
        self._head = head
        self._descriptor: int | None = os.open(
            path.with_suffix(PART), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )

    def write(self, fragment: bytes | memoryview) -> None:
        """Append bytes of the data set; raises OutOfResources."""
        with _disk_errors():
            if self._head:
                _write_all(self._open, (self._head, fragment))
                self._head = b""
            else:
                _write_all(self._open, (fragment,))

    def keep(self) -> Path:
        """Make the object durable under its final name; raises OutOfResources, and then it is not there."""
        final = self._path.with_suffix(COMPLETE)
        with _disk_errors(), self._dropped_on_error():
            os.fsync(self._open)
            self._close()
            self._path.with_suffix(PART).rename(final)
            self._sync()
        return final

    def drop(self) -> None:
        """Remove the object; harmless after `keep` and when repeated."""
        if self._descriptor is not None:
            self._close()
            self._path.with_suffix(PART).unlink(missing_ok=True)

    @property
    def _open(self) -> int:
        assert self._descriptor is not None, "written to after keep or drop"  # noqa: S101 - a fault of ours
        return self._descriptor

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
                self._path.with_suffix(COMPLETE).unlink(missing_ok=True)
            raise


def _write_all(descriptor: int, buffers: Sequence[bytes | memoryview]) -> None:
    written = os.writev(descriptor, buffers)
    missing = sum(map(len, buffers)) - written
    if missing:
        # Rare: a disk that fills up, or a signal. The next write says which.
        rest = memoryview(b"".join(buffers))[written:]
        _write_all(descriptor, (rest,))


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutOfResources(f"the disk cannot hold the object: {error.strerror}") from error
