"""Files to delete whose rows are deleted: noted in the transaction that deletes the rows, deleted after it.

Without the note, `prelim audit --repair` would return a stored file that has no row to the inbox. The object of a file
in the object storage is deleted with it; a command without access to the storage leaves the note, and fails.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from collections import defaultdict
from contextlib import contextmanager, nullcontext, suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, LiteralString

import psycopg
from sqlalchemy import delete, func, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import OperationalError

from db.errors import NotPossible
from db.limits import MAX_SKEW, SESSION_LIMIT
from db.models import FileDeletion, Instance, Quarantined
from db.models.base import any_of
from db.session import connect, transaction
from db.storage import object_cache, object_files
from db.storage.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import Row
    from sqlalchemy.orm import Session

    from db.settings import Settings
    from db.storage.bucket import Bucket
    from db.storage.errors import StorageError

#: Time in which a file is deleted, unless the command was interrupted or the disk refused it.
OVERDUE = dt.timedelta(hours=1)
#: Files deleted between two statements.
PAGE = 1000
#: Key of the advisory lock of the files: exclusive to delete some, shared to copy all.
LOCK = 0x46494C45
#: Key of the advisory lock of moves to the object storage: an object must not be put after it was deleted.
MOVES = 0x4D4F5645
#: Condition: no backup holds the lock.
NO_BACKUP = text("""
    NOT EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND classid = 0 AND objid = :lock AND mode = 'ShareLock' AND granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
""")
#: Condition: the file of the instance is in the object storage, or is being moved there.
MAY_BE_MOVED = Instance.object_sha256.is_not(None) | Instance.storage_due_at.is_not(None)
#: Seconds that a backup waits for the end of a deletion, and between two attempts.
MAX_WAIT_SECONDS, POLL_SECONDS = 60.0, 0.5


class BackupRunning(NotPossible):
    """Raised when files cannot be deleted because a backup copies them, or because they are being moved."""


@contextmanager
def deleting(url: str) -> Iterator[Callable[[], object]]:
    """Delete files within the block, with a call of this function before each; raises BackupRunning.

    A command that is suspended loses the lock after some seconds, so that it blocks no backup, and its next call fails.
    """
    with _locked(url, "SELECT pg_try_advisory_lock(%s)", SESSION_LIMIT) as locked:
        if not locked():
            raise BackupRunning("a backup is running: the files are deleted by the next run")
        # A lock is counted, and all counts end with the session.
        yield locked


@contextmanager
def moving(url: str) -> Iterator[bool]:
    """Move files to the object storage within the block, unless it is False: another process moves or deletes some."""
    with _locked(url, "SELECT pg_try_advisory_lock(%s)", "SELECT 1", MOVES) as locked:
        yield locked()


@contextmanager
def _no_moves(url: str) -> Iterator[None]:
    """Hold moves off within the block; raises BackupRunning if one does not end within MAX_WAIT_SECONDS."""
    with _locked(url, "SELECT pg_try_advisory_lock(%s)", "SELECT 1", MOVES) as locked:
        _wait(locked, BackupRunning("files are being moved to the object storage: they are deleted by the next run"))
        yield


@contextmanager
def held_off(url: str) -> Iterator[None]:
    """Keep all files within the block.

    Raises NotPossible if files are deleted for longer than MAX_WAIT_SECONDS, and at the end of the block if the session
    that holds the lock was lost meanwhile: files may have been deleted since.
    """
    with _locked(url, "SELECT pg_try_advisory_lock_shared(%s)", "SELECT 1") as locked:
        _wait(
            locked, NotPossible("another command deletes files, such as `prelim retain`: try again when it has ended")
        )
        yield
        try:
            locked()
        except psycopg.Error as error:
            raise NotPossible(
                "the database has ended the session that keeps files from being deleted (a restart, a failover): try"
                " again"
            ) from error


def _wait(locked: Callable[[], bool], failure: NotPossible) -> None:
    """Wait for a lock; raises *failure* after MAX_WAIT_SECONDS."""
    ends_at = time.monotonic() + MAX_WAIT_SECONDS
    while not locked():
        if time.monotonic() > ends_at:
            raise failure
        time.sleep(POLL_SECONDS)


@contextmanager
def _locked(url: str, attempt: LiteralString, limit: LiteralString, key: int = LOCK) -> Iterator[Callable[[], bool]]:
    """Function that takes the lock *key* unless it is taken; it ends with the block."""
    try:
        with connect(url) as connection:
            connection.execute(limit)
            try:
                yield lambda: bool((connection.execute(attempt, [key]).fetchone() or [False])[0])
            finally:
                # At its end alone the server would release the lock some time later: the next command would find it.
                with suppress(psycopg.Error):
                    connection.execute("SELECT pg_advisory_unlock_all()")
    except psycopg.Error as error:
        raise OperationalError(None, None, error) from error


def note(session: Session, paths: Collection[str]) -> None:
    """Note that these files, relative to the data directory, are to be deleted; before their rows are."""
    if paths:
        moved = set(
            session.scalars(select(Instance.file_path).where(Instance.file_path == any_of(paths), MAY_BE_MOVED))
        )
        _note(session, [{"file_path": path, "in_storage": path in moved} for path in paths])


def note_objects(session: Session, paths: Collection[str]) -> None:
    """Note that these files and their objects, of rows that are deleted, are to be deleted."""
    if paths:
        _note(session, [{"file_path": path, "in_storage": True} for path in paths])


def _note(session: Session, rows: Sequence[dict[str, object]]) -> None:
    statement = insert(FileDeletion)
    either = statement.excluded.in_storage | FileDeletion.in_storage
    again = statement.on_conflict_do_update(index_elements=["file_path"], set_={"in_storage": either})
    session.execute(again, rows)


def after(session: Session, path: str, limit: int) -> Sequence[Row[str, bool]]:
    """Return the next paths to delete, in their order, and whether the object storage may have them."""
    paths = select(FileDeletion.file_path, FileDeletion.in_storage).where(FileDeletion.file_path > path)
    return session.execute(paths.order_by(FileDeletion.file_path).limit(limit)).all()


def noted(session: Session, paths: Collection[str]) -> set[str]:
    """Return those of the paths whose files are to be deleted."""
    return set(session.scalars(select(FileDeletion.file_path).where(FileDeletion.file_path == any_of(paths))))


def overdue(session: Session) -> Sequence[str]:
    """Return the paths that should be deleted by now; none during a backup, for which their deletion waits."""
    due = FileDeletion.noted_at < func.now() - OVERDUE
    dated_later = FileDeletion.noted_at > func.now() + MAX_SKEW  # by a clock that went back since
    paths = select(FileDeletion.file_path).where(or_(due, dated_later))
    return session.scalars(paths.where(NO_BACKUP.bindparams(lock=LOCK))).all()


def forget(session: Session, paths: Collection[str]) -> None:
    """Forget files that are deleted."""
    session.execute(delete(FileDeletion).where(FileDeletion.file_path == any_of(paths)))


def delete_files(settings: Settings) -> OSError | StorageError | None:
    """Delete the noted files and objects, also those of interrupted commands; return the first error of one that stays.

    Raises BackupRunning.
    """
    url, bucket = settings.database(), object_files.bucket(settings)
    with deleting(url) as keep_lock, nullcontext() if bucket is None else _no_moves(url):
        deletion = _Deletion(settings.operations.data_dir, bucket, keep_lock)
        last = ""
        while True:
            with transaction(url) as session:
                page = after(session, last, PAGE)
                named = _named(session, [row.file_path for row in page])
            if not page:
                return deletion.failure
            stay = deletion.run([row for row in page if row.file_path not in named])
            with transaction(url) as session:
                forget(session, {row.file_path for row in page} - stay)
            last = page[-1].file_path


def _named(session: Session, paths: Collection[str]) -> set[str]:
    """Return the paths that a row has again: such a file stays."""
    tables = Instance.file_path, Quarantined.file_path
    return {path for column in tables for path in session.scalars(select(column).where(column == any_of(paths)))}


class _Deletion:
    """Deletes files durably, and their objects."""

    def __init__(self, data_dir: Path, bucket: Bucket | None, keep_lock: Callable[[], object]) -> None:
        self._data_dir = data_dir
        self._bucket = bucket
        self._keep_lock = keep_lock
        #: First error of a file, and of an object: the others would wait for the same.
        self.failure: OSError | StorageError | None = None
        self._unavailable: Unavailable | None = None

    def run(self, rows: Sequence[Row[str, bool]]) -> set[str]:
        """Delete files; return the paths of those that stay. Raises OSError if a folder cannot be flushed."""
        stay = {path for path, in_storage in rows if not self._is_deleted(path, in_storage)}
        stay |= self._forget_copies([path for path, in_storage in rows if in_storage])
        for folder in {(self._data_dir / path).parent for path, _ in rows}:
            if folder.exists():
                _flush(folder)
        return stay

    def _is_deleted(self, path: str, in_storage: bool) -> bool:
        """Delete a file and its object; return whether both are gone."""
        self._keep_lock()
        try:
            (self._data_dir / path).unlink(missing_ok=True)
            if in_storage:
                self._delete_object(path)
        except (OSError, Unavailable) as error:
            self.failure = self.failure or error
            return False
        return True

    def _forget_copies(self, paths: Sequence[str]) -> set[str]:
        """Delete all copies of these objects, also unfinished ones; return the paths of which one may stay.

        After the objects, so that no reader can begin another one.
        """
        folders = defaultdict[str, set[str]](set)
        for path in paths:
            folders[object_cache.CACHE].add(object_files.cache_name(path))
            folders[PurePosixPath(path).parent.as_posix()].add(PurePosixPath(path).name)
        try:
            for folder, names in folders.items():
                self._keep_lock()
                object_cache.forget(self._data_dir / folder, names)
        except OSError as error:
            self.failure = self.failure or error
            return set(paths)
        return set()

    def _delete_object(self, path: str) -> None:
        if self._unavailable is not None:
            raise self._unavailable
        key = object_files.key(path)
        try:
            bucket = object_files.required(self._bucket)
            bucket.delete(key)
            # Of killed processes: no other one moves files meanwhile.
            bucket.abort_parts(key)
        except Unavailable as error:
            self._unavailable = error
            raise


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
