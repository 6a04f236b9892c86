"""Objects on their way into the inbox: durable by POSIX, with one flush each.

The usual way costs two flushes in sequence: sync the file, rename it, sync the directory. Here the directory is synced
in advance: empty files `<uuid>.part` are created in batches and their directory entries synced together. An object is
written into one, sealed (dicom_listener.spool.file_meta) and synced: from then on it survives a power cut under that
name. The name `<uuid>.dcm`, by which the indexer finds it, is linked beside the first without a flush; the first is
removed when a later flush has made the second durable. After a crash, a `.part` with a valid seal is an object; any
other is removed.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from dicom_listener.spool import file_meta, object_tag, waiting
from dicom_listener.spool.durable import COMPLETE, PART, DirectorySync, file_name, sync_directory, sync_file
from dicom_listener.spool.writer import FreeSpace, Part, SpoolWriter, disk_errors

if TYPE_CHECKING:
    from dicom_listener.spool.durable import Slot

log = structlog.get_logger()

#: Empty files created in advance: those that eight senders of small objects need during the slowest flush seen (20 ms).
PREPARED_FILES = 64
#: Seconds between two rounds of maintenance: prepare files, remove superseded names.
MAINTENANCE_SECONDS = 1.0


class Inbox:
    """Files for the objects of all associations of one process, which owns the slot."""

    def __init__(self, slot: Slot) -> None:
        self._directory = slot.inbox
        self._sync = DirectorySync(slot.inbox)
        self._free_space = FreeSpace(slot.inbox)
        self._prepared: deque[Part] = deque()
        #: The `.part` names of stored objects: superseded by their `.dcm` names once these are durable.
        self._superseded: deque[Path] = deque()
        self._maintenance = threading.Thread(target=self._maintain, name="dicom-inbox")
        self._wake = threading.Event()
        self._closed = False

    def open(self) -> None:
        """Prepare the files of the first objects."""
        self._prepare(PREPARED_FILES)
        self._maintenance.start()

    def close(self) -> None:
        """Remove prepared files and superseded names; no effect the second time."""
        self._closed = True
        self._wake.set()
        self._maintenance.join()
        with contextlib.suppress(OSError):  # the next owner recovers the rest
            self._remove_superseded()
        self._discard_prepared()

    def begin(self, header: bytes) -> SpoolWriter:
        """Return a writer for an object whose file begins with *header*; raises OutOfResources."""
        with disk_errors():
            self._free_space.check()
            return SpoolWriter(
                self._take(),
                header,
                self._free_space,
                committed=self._superseded.append,
                directory_replaced=self._discard_prepared,
            )

    def _discard_prepared(self) -> None:
        """Remove the prepared files; the next start removes those that stay."""
        for _ in range(len(self._prepared)):
            # Another thread may have taken the last.
            with contextlib.suppress(OSError, IndexError):
                self._prepared.popleft().remove()

    def _take(self) -> Part:
        while True:
            try:
                part = self._prepared.popleft()
            except IndexError:  # a burst: this object needs one more flush, shared with the others
                self._prepare(1)
                continue
            if len(self._prepared) < PREPARED_FILES // 2:
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
                with contextlib.suppress(OSError):  # the next start removes the rest
                    part.remove()
            raise
        self._prepared.extend(made)

    def _maintain(self) -> None:
        while not self._closed:
            self._wake.wait(MAINTENANCE_SECONDS)
            self._wake.clear()
            try:
                self._prepare(PREPARED_FILES - len(self._prepared))
                self._remove_superseded()
            except OSError as error:
                # The next object fails on the same disk, and its sender gets the status.
                log.error("inbox.disk_failed", error=error.strerror)  # noqa: TRY400 - no fault of the program
                self._wake.wait(MAINTENANCE_SECONDS)

    def _remove_superseded(self) -> None:
        paths = [self._superseded.popleft() for _ in range(len(self._superseded))]
        try:
            if paths:
                self._sync()
            while paths:
                paths[-1].unlink(missing_ok=True)
                paths.pop()
        finally:
            self._superseded.extend(paths)


def recover(inbox: Path) -> tuple[int, int]:
    """Recover the objects of an earlier owner; returns how many were complete and incomplete. Raises OSError."""
    checked = {path: _is_complete(path) for path in inbox.glob(f"*{PART}")}
    complete = [path for path, found in checked.items() if found]
    linked = {file_name(Path(name)) for name in waiting.received_in(inbox)} if complete else set()
    for path in complete:
        if file_name(path) not in linked:
            os.link(path, tagged(path))
    sync_directory(inbox)
    for path, found in checked.items():
        if found is not None:
            path.unlink()
    return len(complete), sum(found is False for found in checked.values())


def tagged(part: Path) -> Path:
    """Return the path of a complete file in its inbox: with its study, which has a waiting file then."""
    return part.with_name(f"{part.stem}{object_tag.read(part)}{COMPLETE}")


def _is_complete(path: Path) -> bool | None:
    """Return whether *path* is an object, now durable; None if it cannot be read: one must not stop the listener.

    An earlier listener may have ended between write and flush, and a copy that is sent again is dropped as a duplicate.
    """
    try:
        if not file_meta.is_complete(path):
            return False
        sync_file(path)
    except OSError as error:
        log.error("inbox.part_unreadable", file=path.name, error=error.strerror)  # noqa: TRY400 - a fault of the disk
        return None
    return True
