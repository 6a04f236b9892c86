"""Files to delete whose rows are deleted: noted in the transaction that deletes the rows, deleted after it.

Without the note, `prelim audit --repair` would return a stored file that has no row to the inbox.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, LiteralString

import psycopg
from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import OperationalError

from db.errors import NotPossible
from db.limits import SESSION_LIMIT
from db.models import FileDeletion, Instance, Quarantined
from db.models.base import any_of
from db.session import connect, transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from sqlalchemy.orm import Session

#: Time in which a file is deleted, unless the command was interrupted or the disk refused it.
OVERDUE = dt.timedelta(hours=1)
#: Files deleted between two statements.
PAGE = 1000
#: Key of the advisory lock of the files: exclusive to delete some, shared to copy all.
LOCK = 0x46494C45
#: Condition: no backup holds the lock.
NO_BACKUP = text("""
    NOT EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND classid = 0 AND objid = :lock AND mode = 'ShareLock' AND granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
""")
#: Seconds that a backup waits for the end of a deletion, and between two attempts.
MAX_WAIT_SECONDS, POLL_SECONDS = 60.0, 0.5


class BackupRunning(NotPossible):
    """Raised when files cannot be deleted because a backup copies them."""


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
def held_off(url: str) -> Iterator[None]:
    """Keep all files within the block; raises NotPossible if files are deleted for longer than MAX_WAIT_SECONDS."""
    with _locked(url, "SELECT pg_try_advisory_lock_shared(%s)", "SELECT 1") as locked:
        ends_at = time.monotonic() + MAX_WAIT_SECONDS
        while not locked():
            if time.monotonic() > ends_at:
                raise NotPossible("another command deletes files, such as `prelim retain`: try again when it has ended")
            time.sleep(POLL_SECONDS)
        yield


@contextmanager
def _locked(url: str, attempt: LiteralString, limit: LiteralString) -> Iterator[Callable[[], bool]]:
    """Function that takes the lock of the files unless it is taken; it ends with the block."""
    try:
        with connect(url) as connection:
            connection.execute(limit)
            yield lambda: bool((connection.execute(attempt, [LOCK]).fetchone() or [False])[0])
    except psycopg.Error as error:
        raise OperationalError(None, None, error) from error


def note(session: Session, paths: Collection[str]) -> None:
    """Note that these files, relative to the data directory, are to be deleted."""
    if paths:
        session.execute(insert(FileDeletion).on_conflict_do_nothing(), [{"file_path": path} for path in paths])


def after(session: Session, path: str, limit: int) -> Sequence[str]:
    """Return the next paths to delete, in their order."""
    paths = select(FileDeletion.file_path).where(FileDeletion.file_path > path)
    return session.scalars(paths.order_by(FileDeletion.file_path).limit(limit)).all()


def noted(session: Session, paths: Collection[str]) -> set[str]:
    """Return those of the paths whose files are to be deleted."""
    return set(session.scalars(select(FileDeletion.file_path).where(FileDeletion.file_path == any_of(paths))))


def overdue(session: Session) -> Sequence[str]:
    """Return the paths that should be deleted by now; none during a backup, for which their deletion waits."""
    paths = select(FileDeletion.file_path).where(FileDeletion.noted_at < func.now() - OVERDUE)
    return session.scalars(paths.where(NO_BACKUP.bindparams(lock=LOCK))).all()


def forget(session: Session, paths: Collection[str]) -> None:
    """Forget files that are deleted."""
    session.execute(delete(FileDeletion).where(FileDeletion.file_path == any_of(paths)))


def delete_files(url: str, data_dir: Path) -> OSError | None:
    """Delete the noted files, also those of interrupted commands; return the first error of one that stays.

    Raises BackupRunning.
    """
    failures: list[OSError] = []
    last = ""
    with deleting(url) as keep_lock:
        while True:
            with transaction(url) as session:
                paths = after(session, last, PAGE)
                unnamed = set(paths) - _named(session, paths)
            if not paths:
                return failures[0] if failures else None
            stay = _delete(data_dir, unnamed, failures, keep_lock)
            with transaction(url) as session:
                forget(session, set(paths) - stay)
            last = paths[-1]


def _named(session: Session, paths: Collection[str]) -> set[str]:
    """Return the paths that a row has again: such a file stays."""
    tables = Instance.file_path, Quarantined.file_path
    return {path for column in tables for path in session.scalars(select(column).where(column == any_of(paths)))}


def _delete(
    data_dir: Path, paths: Collection[str], failures: list[OSError], keep_lock: Callable[[], object]
) -> set[str]:
    """Delete files durably; return the paths of those that stay. Raises OSError if a folder cannot be flushed."""
    stay = set()
    for path in paths:
        keep_lock()
        try:
            (data_dir / path).unlink(missing_ok=True)
        except OSError as error:
            failures.append(error)
            stay.add(path)
    for folder in {(data_dir / path).parent for path in paths}:
        if folder.exists():
            _flush(folder)
    return stay


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
