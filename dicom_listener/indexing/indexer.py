"""Stored files become rows: exactly once, after any crash, however long the database was away.

A file leaves the inbox last of all. Whatever happens before that, it is indexed again, and finds what was done.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import os
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DataError, DBAPIError

from db.errors import Reason
from db.logs import frames
from db.session import transaction
from db.studies import lifecycle
from db.studies.lifecycle import ReceivedInstance, Recorded
from dicom_listener.dicom.statuses import Refusal
from dicom_listener.indexing import headers, n_service_events
from dicom_listener.spool.durable import Spool, sync_directory
from dicom_listener.spool.file_meta import C_STORE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sqlalchemy.orm import Session

    from db.settings import Settings

    #: An instance, what else gets its row, or why there is neither.
    Found = ReceivedInstance | n_service_events.Record | str

log = structlog.get_logger()

#: Files of one transaction: enough to share its flush, few enough that a crash repeats little.
BATCH = 200
#: Classes of SQLSTATE that blame a value: data exception, integrity, limits such as the size of an index row.
VALUE_IS_TO_BLAME = frozenset(("22", "23", "54"))
#: Files that fail alone before the database is blamed and all wait.
MOST_FAILURES = 3


def run_once(settings: Settings) -> int:
    """Give rows to the oldest files of the inbox; returns how many left it, fewer than BATCH when it is empty.

    Raises SQLAlchemyError where the database cannot be reached; the files wait.
    """
    indexer = Indexer(settings)
    waiting = indexer.spool.received(BATCH)
    try:
        indexer.index(waiting)
    except DBAPIError:
        indexer.reach_database()
        # One file the database refuses must not stop the others: alone, each shows whether it is the one.
        return indexer.index_each(waiting)
    return len(waiting)


class Indexer:
    """Indexes files of one spool into one database."""

    def __init__(self, settings: Settings) -> None:
        self.spool = Spool(settings.spool)
        self._data_dir = settings.operations.data_dir
        self._url = settings.database()
        self._priority_rules = settings.study.priority_rules

    def index(self, files: Iterable[Path]) -> None:
        """Give *files* their rows in one transaction, then take them out of the inbox.

        What another dispatcher takes out meanwhile has its row and is left alone.
        """
        read = self._shelve({path: found for path in files if (found := self._read(path)) is not None})
        with transaction(self._url) as session:
            outcomes = {path: self._record(session, path, found) for path, found in read.items()}
        for path, outcome in outcomes.items():
            if outcome not in (Recorded.NEW, Recorded.ALREADY_INDEXED):
                self.spool.place(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def reach_database(self) -> None:
        """Raise SQLAlchemyError where the database does not answer."""
        with transaction(self._url) as session:
            session.execute(text("SELECT 1"))

    def index_each(self, files: Iterable[Path]) -> int:
        """Give each file its row by itself; returns how many have left the inbox.

        What fails for no fault of the file's goes to the end of the queue; raises DBAPIError after a few of them.
        """
        moved = failed = 0
        for path in files:
            try:
                self.index_alone(path)
                moved += 1
            except DBAPIError as error:
                failed += 1
                log.error("index.waiting", file=path.name, why=type(error.orig).__name__)  # noqa: TRY400 - no fault of ours
                os.utime(path)
                if failed > MOST_FAILURES:
                    raise
        return moved

    def index_alone(self, path: Path) -> None:
        """Give one file its row, in `quarantine` where the database refuses what its header says."""
        try:
            self.index([path])
        except DBAPIError as error:
            if not _blames_a_value(error):
                raise
            with transaction(self._url) as session:
                self._quarantine(session, path, Reason.UNREADABLE, "its header holds a value that the database refuses")
            self.spool.place(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> Found | None:
        try:
            meta = headers.read_meta(path)
            if meta.reception.operation != C_STORE:
                return n_service_events.read(path, meta)
            place = self._relative(self.spool.place(path))
            return headers.read(path, meta, place, self._priority_rules)
        except (ValueError, Refusal) as error:
            return str(error)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            # This file is damaged; an outage would concern all.
            return "the disk does not give it back"
        # No file may stop the others, whatever is in it. Its text could quote a patient.
        except Exception as error:  # noqa: BLE001
            log.error("index.failed", file=path.name, error=type(error).__name__, frames=frames(error))  # noqa: TRY400
            return f"reading it failed ({type(error).__name__})"

    def _shelve(self, read: dict[Path, Found]) -> dict[Path, Found]:
        """Give the instances their durable places; returns *read* without what is gone from the inbox by now."""
        left = {path: found for path, found in read.items() if self._is_placed(path, found)}
        for shelf in {self.spool.place(path).parent for path, found in left.items() if _is_instance(found)}:
            sync_directory(shelf)
        return left

    def _is_placed(self, path: Path, found: Found) -> bool:
        try:
            if _is_instance(found):
                with contextlib.suppress(FileExistsError):  # an earlier try came this far
                    os.link(path, self.spool.place(path))
        except FileNotFoundError:
            return False
        return True

    def _record(self, session: Session, path: Path, found: Found) -> Recorded | None:
        if isinstance(found, str):
            self._quarantine(session, path, Reason.UNREADABLE, found)
            return None
        if not isinstance(found, ReceivedInstance):
            found(session)
            return None
        return self._record_instance(session, path, found)

    def _record_instance(self, session: Session, path: Path, instance: ReceivedInstance) -> Recorded:
        outcome = lifecycle.record_instance(session, instance)
        if outcome is Recorded.CONFLICT:
            detail = "another object with this SOP Instance UID came before and is kept"
            self._quarantine(session, path, Reason.CONFLICTING_SOP_INSTANCE, detail, instance)
        elif outcome is Recorded.DUPLICATE:
            log.info("index.duplicate", sop_instance_uid=instance.sop_instance_uid)
        return outcome

    def _quarantine(
        self, session: Session, path: Path, reason: Reason, detail: str, instance: ReceivedInstance | None = None
    ) -> None:
        place = self.spool.quarantine / path.name
        with contextlib.suppress(FileExistsError):
            os.link(path, place)
        sync_directory(self.spool.quarantine)
        digest = _digest(path)
        log.warning("index.quarantined", file=path.name, reason=reason, detail=detail)
        lifecycle.quarantine(
            session,
            file_path=self._relative(place),
            file_bytes=digest.file_bytes,
            sha256=digest.sha256,
            reason=reason,
            detail=detail,
            received_at=instance.received_at if instance else _written_at(path),
            sop_instance_uid=instance.sop_instance_uid if instance else None,
            calling_ae_title=instance.calling_ae_title if instance else "",
        )

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._data_dir).as_posix()


def _is_instance(found: Found) -> bool:
    return isinstance(found, ReceivedInstance)


def _blames_a_value(error: DBAPIError) -> bool:
    """Whether the database refuses what it was given; not, where it is full, locked or going down."""
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    return isinstance(error, DataError) or sqlstate[:2] in VALUE_IS_TO_BLAME


def _digest(path: Path) -> headers.Digest:
    try:
        return headers.digest(path)
    except OSError:
        return headers.Digest(path.stat().st_size, "")


def _written_at(path: Path) -> dt.datetime:
    return dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)
