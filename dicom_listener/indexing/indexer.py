"""Make rows from received files: exactly once, after any crash and any outage of the database.

A file is removed from the inbox last. After any failure before that, it is indexed again, which is idempotent.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import structlog
from psycopg.errors import LockNotAvailable
from sqlalchemy import text
from sqlalchemy.exc import DataError, DBAPIError
from structlog.contextvars import bound_contextvars

from db.answers import structured_reports
from db.errors import Reason
from db.logs import frames
from db.session import transaction
from db.studies import batches, lifecycle
from db.studies.lifecycle import ReceivedInstance, Recorded
from dicom_listener.dicom.statuses import Refusal
from dicom_listener.indexing import erased, file_locks, headers, n_service_events, specialist_reports, unreadable
from dicom_listener.indexing.repair import repair, replace_lost
from dicom_listener.indexing.set_aside import record, set_aside, set_conflicts_aside
from dicom_listener.indexing.unreadable import Unreadable
from dicom_listener.spool.durable import Spool, sync_directory
from dicom_listener.spool.file_meta import C_STORE
from dicom_listener.spool.waiting import WaitingFiles, study_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from sqlalchemy.orm import Session

    from db.models import Quarantined
    from db.settings import Settings

    #: An instance, another record, the cause of quarantine, or the error of the file.
    Found = ReceivedInstance | n_service_events.Record | str | Unreadable

log = structlog.get_logger()

#: Files of one transaction: enough to share its flush, few enough that little is repeated after a crash.
BATCH = 200
#: Bytes of one transaction's files, unless one is larger: two seconds of reading from a slow disk.
BATCH_BYTES = 256 * 2**20
#: Results after which the link of the file in the store, and one in quarantine, is not needed.
COPIES = (Recorded.DUPLICATE, Recorded.CONFLICT)
INSTANCES = (Recorded.NEW, Recorded.ALREADY_INDEXED, Recorded.DUPLICATE)
#: Classes of SQLSTATE caused by a value: data exception, integrity, limits such as the size of an index row.
VALUE_ERROR_CLASSES = frozenset(("22", "23", "54"))
#: Seconds until a file that failed for a reason other than its values is tried again: a batch with it is slow.
PAUSE_SECONDS = 5.0
#: Maximum number of files of a batch that fail individually; beyond it, the database is at fault and all files wait.
MAX_FAILURES = 3


def run_once(settings: Settings, waiting: WaitingFiles | None = None) -> int:
    """Index the next files of the inboxes, or of *waiting*, their listing; returns the number that left it.

    Raises SQLAlchemyError if the database cannot be reached; the files wait.
    """
    indexer = Indexer(settings)
    if waiting is None:
        waiting = WaitingFiles(indexer.spool)
        waiting.refresh(indexer.unreadable.resting())
    began = time.monotonic()
    files = waiting.take(waiting.batch_files(BATCH), BATCH_BYTES)
    try:
        moved = indexer.index(files)
    except DBAPIError:
        indexer.reach_database()
        # One file with a value that the database refuses must not stop the others.
        return indexer.index_each(files)
    waiting.note_batch(moved, time.monotonic() - began)
    return moved


class Indexer:
    """Index files of one spool into one database."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.spool = Spool(settings.spool)
        self.unreadable = unreadable.of_spool(settings.spool)
        self._data_dir = settings.operations.data_dir
        self._url = settings.database()

    def index(self, files: Iterable[Path]) -> int:
        """Index *files* in one transaction, then remove them from the inbox; returns their number.

        Files that another dispatcher indexes now, or has removed, are skipped.
        """
        with file_locks.held(files) as held:
            self._index(held)
        return len(held.paths)

    def _index(self, held: file_locks.Held) -> None:
        read = erased.without_erased(self._url, self._examine(held.paths))
        # Before the transaction: they are read for their digests.
        aside = {path: row for path, found in read.items() if (row := self._set_aside(path, found)) is not None}
        self._flush_quarantine(aside)
        instances = {path: found for path, found in read.items() if isinstance(found, ReceivedInstance)}
        reports = specialist_reports.read_all(instances)
        with transaction(self._url) as session:
            released = self._release(session, read)
            recorded = batches.record(session, [*instances.values()])
            new = [(one, found) for one, found in reports if recorded[one.file_path] is Recorded.NEW]
            structured_reports.record(session, new)
            outcomes = {path: self._record(session, path, found, recorded) for path, found in read.items()}
            for row in aside.values():
                record(session, row)
        kept = self._repair({path: read[path] for path, outcome in outcomes.items() if outcome is Recorded.DUPLICATE})
        other = {path: found for path, found in instances.items() if outcomes[path] is Recorded.CONFLICT}
        # After the repair: an equal copy goes before another version.
        taken = replace_lost(self._settings, other)
        conflicts = {path: found for path, found in other.items() if path not in taken}
        set_conflicts_aside(self._settings, conflicts)
        kept |= {self.spool.stored_path(path) for path in taken}
        unused = {self.spool.stored_path(path) for path, outcome in outcomes.items() if outcome in COPIES} - kept
        unused |= self._left_over([path for path in read if outcomes[path] is None], held)
        indexed = {path: self.spool.quarantined_path(path) for path in read if outcomes[path] in INSTANCES}
        # Of a row that was deleted, or left by an interrupted run.
        unused |= {link for path, link in indexed.items() if link in released or held.is_exclusive(path)}
        for link in unused:
            unreadable.remove(link)
        for path in read:
            self.unreadable.leave_inbox(path, set_aside=path in aside or path in conflicts)

    def _left_over(self, files: Iterable[Path], held: file_locks.Held) -> set[Path]:
        """Return the paths in the store of files that are no instances: an interrupted run read and linked them.

        Without those that a row names, and those that another dispatcher could be indexing: the audit finds them.
        """
        paths = (self.spool.stored_path(path) for path in files if held.is_exclusive(path))
        stored = {self._relative(path): path for path in paths if os.path.lexists(path)}
        if not stored:
            return set()
        with transaction(self._url) as session:
            named = lifecycle.stored(session, stored)
        return {path for name, path in stored.items() if name not in named}

    def _examine(self, files: Iterable[Path]) -> dict[Path, Found]:
        """Read *files* and link the instances to their durable paths; without those that wait or have left the inbox.

        Raises OSError if the disk does not work at all.
        """
        read = self._place({path: found for path in files if (found := self._read(path)) is not None})
        aside = self.unreadable.sort(
            {path: found if isinstance(found, Unreadable) else None for path, found in read.items()}
        )
        return {path: found for path, found in read.items() if not isinstance(found, Unreadable) or path in aside}

    def _release(self, session: Session, read: dict[Path, Found]) -> set[Path]:
        """Delete the quarantine rows of files that can be read again; return the paths in quarantine of those."""
        readable = [path for path, found in read.items() if not isinstance(found, Unreadable)]
        aside = {self._relative(self.spool.quarantined_path(path)): path for path in readable}
        released = lifecycle.release(session, [*map(self._relative, readable), *aside])
        return {self.spool.quarantined_path(path) for name, path in aside.items() if name in released}

    def _repair(self, duplicates: dict[Path, Found]) -> set[Path]:
        """Repair the stored files of *duplicates* that are missing or damaged; return the paths that rows use now."""
        instances = {path: found for path, found in duplicates.items() if isinstance(found, ReceivedInstance)}
        copies = {found.sop_instance_uid: self.spool.stored_path(path) for path, found in instances.items()}
        return repair(self._settings, copies)

    def reach_database(self) -> None:
        """Raise SQLAlchemyError if the database cannot be reached."""
        with transaction(self._url) as session:
            session.execute(text("SELECT 1"))

    def index_each(self, files: Iterable[Path]) -> int:
        """Index each file in its own transaction; returns the number of files that have left the inbox.

        A file that fails for a reason other than its values rests, and the others of a study that is locked wait, too.
        Raises DBAPIError after more than MAX_FAILURES of them.
        """
        moved = failed = 0
        locked: set[str] = set()
        for path in files:
            if study_of(path) in locked:
                continue
            try:
                moved += self.index_alone(path)
            except DBAPIError as error:
                failed += 1
                reason = type(error.orig).__name__
                log.error("index.waiting", file=path.name, error=reason)  # noqa: TRY400 - no fault of the program
                # Its time stays as it is: requests that follow each other are indexed in their order.
                self.unreadable.rest(path, PAUSE_SECONDS)
                if failed > MAX_FAILURES:
                    raise
                if isinstance(error.orig, LockNotAvailable) and study_of(path):
                    locked.add(study_of(path))
        return moved

    def index_alone(self, path: Path) -> int:
        """Index one file, to `quarantine` if the database refuses a value of it; returns 0 if it was skipped."""
        try:
            return self.index([path])
        except DBAPIError as error:
            if not _is_value_error(error):
                raise
            self._quarantine(path, "a value in its header is refused by the database")
            unreadable.remove(self.spool.stored_path(path))
            self.unreadable.leave_inbox(path, set_aside=True)
            return 1

    def _read(self, path: Path) -> Found | None:
        with bound_contextvars(file=path.name):
            return self._parse(path)

    def _parse(self, path: Path) -> Found | None:
        try:
            meta = headers.read_meta(path)
            if meta.reception.operation != C_STORE:
                return n_service_events.read(path, meta)
            stored_path = self._relative(self.spool.stored_path(path))
            return headers.read(path, meta, stored_path, self._settings)
        except (ValueError, Refusal) as error:
            return str(error)
        except OSError as error:
            return self._unreadable(path, error)
        # The boundary of one file: it must not stop the others. The text could quote a patient.
        except Exception as error:  # noqa: BLE001
            log.error("index.failed", error=type(error).__name__, frames=frames(error))  # noqa: TRY400
            return f"indexing failed ({type(error).__name__})"

    def _unreadable(self, path: Path, error: OSError) -> Unreadable | None:
        """Return the error of one file, None if the file has left the inbox; raises *error* if others have it, too."""
        if isinstance(error, FileNotFoundError) and not os.path.lexists(path):
            return None
        log.error("index.unreadable", file=path.name, error=error.strerror)
        return unreadable.of_one_file(error)

    def _place(self, read: dict[Path, Found]) -> dict[Path, Found]:
        """Link the instances to their durable paths; returns *read* without files that have left the inbox since."""
        left = {path: placed for path, found in read.items() if (placed := self._link(path, found)) is not None}
        instances = [path for path, found in left.items() if isinstance(found, ReceivedInstance)]
        for directory in {self.spool.stored_path(path).parent for path in instances}:
            sync_directory(directory)
        return left

    def _link(self, path: Path, found: Found) -> Found | None:
        if not isinstance(found, ReceivedInstance):
            return found
        try:
            with contextlib.suppress(FileExistsError):  # from an interrupted run
                os.link(path, self.spool.stored_path(path))
        except FileNotFoundError:
            if os.path.lexists(path):  # a folder of the store is missing
                raise
            return None
        except OSError as error:
            return self._unreadable(path, error)
        return found

    def _record(self, session: Session, path: Path, found: Found, recorded: Mapping[str, Recorded]) -> Recorded | None:
        """Make the other rows of a file, and return the result if it is an instance."""
        if not isinstance(found, ReceivedInstance):
            if callable(found):
                found(session)
            return None
        with bound_contextvars(file=path.name, association_id=found.association_id):
            if recorded[found.file_path] is Recorded.DUPLICATE:
                log.info("index.duplicate")
            return recorded[found.file_path]

    def _set_aside(self, path: Path, found: Found) -> Quarantined | None:
        """Link a file that cannot be read or indexed into quarantine, and return its row."""
        if isinstance(found, Unreadable):
            return set_aside(self._settings, path, Reason.FILE_ERROR, f"the file cannot be read: {found.error}")
        return set_aside(self._settings, path, Reason.UNREADABLE, found) if isinstance(found, str) else None

    def _quarantine(self, path: Path, detail: str) -> None:
        """Set a file aside that cannot be indexed, with its row."""
        if row := self._set_aside(path, detail):
            self._flush_quarantine([path])
            with transaction(self._url) as session:
                record(session, row)

    def _flush_quarantine(self, files: Collection[Path]) -> None:
        """Make the links of these files durable, before they leave the inbox."""
        if files:
            sync_directory(self.spool.quarantine)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._data_dir).as_posix()


def _is_value_error(error: DBAPIError) -> bool:
    """Return whether *error* is caused by a value; False if the database is full, locked or shutting down."""
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    return isinstance(error, DataError) or sqlstate[:2] in VALUE_ERROR_CLASSES
