"""The spool: bytes to disk, durably, under names that no sender can choose.

    spool/inbox/<uuid>.part      made in advance, then being received
    spool/inbox/<uuid>.dcm       acknowledged, waits for its rows
    spool/store/<xx>/<uuid>.dcm  has its row in `instances`
    spool/quarantine/<uuid>.dcm  has its row in `quarantine`
    spool/associations/<id>      an open association that has sent objects
    spool/procedure_steps/<hash> the state of a procedure step
    spool/reports/<ids>          a commitment report for an open association

An object is acknowledged only when POSIX guarantees that it survives a power cut: its bytes are synced, and so is a
directory that names them. dicom_listener.spool.inbox does both with one flush for each object.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from dataclasses import dataclass
from pathlib import Path

PART = ".part"
COMPLETE = ".dcm"


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

    @property
    def procedure_steps(self) -> Path:
        """The state of each procedure step."""
        return self.root / "procedure_steps"

    @property
    def reports(self) -> Path:
        """Commitment reports that wait for their association."""
        return self.root / "reports"

    @property
    def refusals(self) -> Path:
        """How often the listener refused whom, and why."""
        return self.root / "refusals.json"

    def prepare(self) -> None:
        """Make the folders, readable by our user only, and make sure that they stay."""
        shelves = (self.store / f"{number:02x}" for number in range(256))
        kept = (self.inbox, self.store, *shelves, self.quarantine)
        above = self._above()
        for folder in (*kept, self.associations, self.procedure_steps, self.reports):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.store, self.root, self.root.parent, *above):
            sync_directory(folder)

    def _above(self) -> list[Path]:
        """The folders that name the data directory and those made above it: up to the first that is there."""
        above = list(self.root.parent.parents)
        missing = sum(1 for _ in itertools.takewhile(lambda folder: not folder.exists(), above))
        return above[: missing + 1]

    def mark_open(self, association_id: str) -> None:
        """Let the dispatcher know that objects are coming in this association."""
        (self.associations / association_id).touch()

    def mark_closed(self, association_id: str) -> None:
        """Let the dispatcher know that no more come."""
        (self.associations / association_id).unlink(missing_ok=True)

    def forget_associations(self) -> None:
        """None is open: an earlier listener is gone."""
        for marker in self.associations.iterdir():
            marker.unlink()

    def open_associations(self) -> list[str]:
        """The associations in which objects may still come."""
        return [marker.name for marker in self.associations.iterdir()]

    def is_open(self, association_id: str) -> bool:
        """Whether this association is open and has sent something."""
        return (self.associations / association_id).exists()

    def received(self, most: int) -> list[Path]:
        """Acknowledged files that wait for their rows, the oldest first."""
        waiting = []
        with os.scandir(self.inbox) as entries:
            for entry in entries:
                # Another dispatcher may take it out between the two calls.
                with contextlib.suppress(FileNotFoundError):
                    if entry.name.endswith(COMPLETE):
                        waiting.append((entry.stat().st_mtime_ns, entry.path))
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
    know afterwards what is on the disk. A restart looks again. A directory that cannot be opened, for want of
    descriptors, has lost nothing: the next call tries again.
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
        try:
            failure = _failure_of_flush(self._directory)
        finally:
            self._condition.acquire()
            self._flushing = False
            self._condition.notify_all()
        self._failure = failure
        self._flushed += 1


def _failure_of_flush(directory: Path) -> OSError | None:
    """Flush it and return what the flush failed of; raises OSError where there was none to fail."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        return error
    finally:
        os.close(descriptor)
    return None
