"""Files of the inboxes that cannot be read: a single one is set aside, several in a row only when they fail again."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, NamedTuple

import structlog

from db.made_once import MadeOnce
from dicom_listener.spool import file_system
from dicom_listener.spool.durable import Spool

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = structlog.get_logger()

#: Different files in a row, without a readable one between them, that are a fault of the disk and not of the files.
IN_A_ROW = 3
#: Files that are set aside at their second visit although no file was read in between: a disk has more.
MAX_WITHOUT_READ = 20
#: Seconds until a file that stays in the inbox is read again: its owner or mount may have been corrected.
PAUSE_SECONDS = 60
#: Errors that are never the fault of one file.
OF_THE_SYSTEM = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EXDEV, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
)


class Unreadable(NamedTuple):
    """Error of a file that cannot be read or linked; *error* is the text of its errno."""

    error: str


def of_one_file(error: OSError) -> Unreadable:
    """Return the error as one of a single file; raises *error* if it can only be one of the system."""
    if error.errno in OF_THE_SYSTEM:
        raise error
    return Unreadable(error.strerror or type(error).__name__)


def remove(path: Path) -> bool:
    """Remove a file, and return whether it is gone; raises OSError if the disk does not work at all."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        of_one_file(error)
        log.error("file.not_removed", file=path.name, error=error.strerror)  # noqa: TRY400 - a fault of the disk
        return False
    return True


class UnreadableFiles:
    """Unreadable files of one spool, as this process has found them."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        #: Names of the unreadable files since the last readable one.
        self._in_a_row: set[str] = set()
        #: Errors of files that wait in an inbox.
        self._waiting: dict[Path, str] = {}
        #: Files that stay in the inbox because they cannot be linked or removed; their rows are written.
        self._immovable: set[str] = set()
        self._read_at: dict[str, float] = {}
        #: Number of files that were read, and that number when each file of a run was found, by name.
        self._files_read = 0
        self._found_after: dict[str, int] = {}

    def resting(self) -> set[str]:
        """Return the names of files that are not to be read now."""
        now = time.monotonic()
        return {name for name, due in self._read_at.copy().items() if now < due}

    def set_aside(self) -> set[str]:
        """Return the names of files that stay in the inbox although their rows are written."""
        return set(self._immovable)

    def sort(self, found: Mapping[Path, Unreadable | None]) -> set[Path]:
        """Note the files just read, in order, with their errors; return those that are to be set aside.

        Raises OSError if the disk does not work at all: then everything waits.
        """
        errors = {path: unreadable.error for path, unreadable in found.items() if unreadable is not None}
        self._waiting |= errors
        if errors:
            file_system.probe(self._spool)
        run: list[Path] = []
        aside: list[Path] = []
        for path in found:
            if path in errors:
                self._in_a_row.add(path.name)
                run.append(path)
                continue
            self._files_read += 1
            aside += self._end_run(run)
            self._in_a_row.clear()
            run = []
            self._forget(path)
        return {*aside, *self._end_run(run)}

    def _end_run(self, run: list[Path]) -> list[Path]:
        """Return the files of a run that are to be set aside; the others rest."""
        few = len(self._in_a_row) < IN_A_ROW
        aside = [path for path in run if few or path.name in self._immovable or self._fails_alone(path)]
        for path in run:
            if path in aside:
                del self._waiting[path]
                self._found_after.pop(path.name, None)
            else:
                self._found_after.setdefault(path.name, self._files_read)
                self.rest(path, PAUSE_SECONDS)
        return aside

    def _fails_alone(self, path: Path) -> bool:
        """Return whether the file failed at an earlier visit, too, and the disk works: its probe did, or other files.

        Neighbours on a disk fail together, and are in a row at each visit.
        """
        found_after = self._found_after.get(path.name)
        if found_after is None:
            return False
        return self._files_read > found_after or len(self._waiting) <= MAX_WITHOUT_READ

    def leave_inbox(self, path: Path, *, set_aside: bool) -> None:
        """Remove a file whose rows are written; one that cannot be linked into quarantine, or removed, stays."""
        is_only_link = set_aside and not os.path.lexists(self._spool.quarantined_path(path))
        if is_only_link or not remove(path):
            self._stay(path)

    def _stay(self, path: Path) -> None:
        """Note that a file cannot be moved out of the inbox, but has its rows."""
        self._immovable.add(path.name)
        self._in_a_row.discard(path.name)
        self.rest(path, PAUSE_SECONDS)

    def info(self) -> dict[str, object] | None:
        """Return number and latest error of the waiting files, for a heartbeat; None if there are none."""
        # A copy: it is written in another thread.
        waiting = self._waiting.copy()
        errors = [error for path, error in waiting.items() if os.path.lexists(path)]
        return {"files": len(errors), "error": errors[-1]} if errors else None

    def rest(self, path: Path, seconds: float) -> None:
        """Do not read a file for some time; its study waits for it."""
        self._read_at[path.name] = time.monotonic() + seconds

    def _forget(self, path: Path) -> None:
        self._waiting.pop(path, None)
        self._read_at.pop(path.name, None)
        self._found_after.pop(path.name, None)
        self._immovable.discard(path.name)


@MadeOnce
def of_spool(root: Path) -> UnreadableFiles:
    """Return the unreadable files of a spool, found by all threads of this process so far."""
    return UnreadableFiles(Spool(root))
