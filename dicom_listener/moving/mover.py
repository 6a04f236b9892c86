"""Move files to the object storage: put the object, commit its digest, delete the local copy when it is old enough.

Killed at any point, the next run continues: an object that exists already is compared and not replaced, and a local
copy is deleted only after its object is in the database. Without the storage, files wait, and nothing else does.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import SQLAlchemyError

from db.models import Instance
from db.session import transaction
from db.storage import moves, object_cache, object_files
from db.storage.errors import Damaged, Refused, StorageError, Unavailable
from db.studies import lifecycle
from db.studies.deletion import file_deletions
from dicom_listener.indexing import headers
from dicom_listener.recovery.noted_timeline import current_timeline
from dicom_listener.spool.durable import COMPLETE, sync_directory

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from db.settings import Settings
    from db.storage.bucket import Upload
    from db.storage.moves import CopyRow, FileRow

log = structlog.get_logger()

#: Files of one transaction, objects put at the same time, and local copies deleted by one transaction.
BATCH, THREADS, DELETED = 200, 4, 1000
#: Seconds between two looks for files, and pauses while the storage or the database does not work.
IDLE_SECONDS, PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 1.0, 15.0
#: Seconds between two searches for local files that no row has as due.
SWEEP_SECONDS = 3600.0
#: Age from which an upload in parts is abandoned: no object takes a day.
ABANDONED = dt.timedelta(days=1)
#: Names looked up at a time by a search.
PAGE = 1000


def run(settings: Settings, stop: threading.Event) -> None:
    """Move files until *stop* is set; returns at once without an object storage."""
    if settings.storage.storage_url is None:
        return
    mover, pause = Mover(settings), PAUSE_SECONDS
    while not stop.is_set():
        try:
            moved = mover.run_once()
            pause = PAUSE_SECONDS
            if not moved:
                stop.wait(IDLE_SECONDS)
        except (StorageError, SQLAlchemyError, OSError) as error:
            mover.outage.begin(error)
            stop.wait(pause)
            pause = min(pause * 2, MAX_PAUSE_SECONDS)


class Outage:
    """Time for which files cannot be moved; its begin and its end are logged once."""

    def __init__(self) -> None:
        self._since: float | None = None

    def begin(self, error: Exception) -> None:
        """Log the first error of an outage; that of a driver without its text, which may hold a password."""
        if self._since is None:
            self._since = time.monotonic()
            text = str(error) if isinstance(error, StorageError) else type(error).__name__
            log.warning("storage.unavailable", error=text)

    def end(self) -> None:
        """Log the end of an outage."""
        if self._since is not None:
            log.info("storage.available", seconds=round(time.monotonic() - self._since, 1))
            self._since = None


class Mover:
    """Moves the files of one spool into one bucket."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = settings.database()
        self._data_dir = settings.operations.data_dir
        self._bucket = object_files.required(object_files.bucket(settings))
        self._kept = dt.timedelta(hours=settings.storage.storage_keep_local_hours)
        self._sweep_at = time.monotonic()
        self.outage = Outage()

    def run_once(self) -> int:
        """Move the files that are due, at most BATCH, and delete old local copies; return the number of both.

        0 if nothing is due, or another process moves or deletes now. Raises Unavailable, SQLAlchemyError, OSError.
        """
        if time.monotonic() >= self._sweep_at:
            self.sweep()
            self._sweep_at = time.monotonic() + SWEEP_SECONDS
        with transaction(self._url) as session:
            if not moves.are_due(session):
                return 0
        # A connection of its own, as long as the lock.
        with file_deletions.moving(self._url) as is_alone:
            return self._move() + self._delete_copies() if is_alone else 0

    def sweep(self) -> None:
        """Make local files due that no row has as due; delete cached objects of deleted rows, and abandoned parts."""
        for page in _pages(self._data_dir / object_files.STORE, "*/*" + COMPLETE):
            paths = [path.relative_to(self._data_dir).as_posix() for path in page]
            with transaction(self._url) as session:
                if adopted := moves.adopt(session, paths):
                    log.info("storage.adopted", files=adopted)
        for page in _pages(self._data_dir / object_cache.CACHE, "*" + COMPLETE):
            cached = {object_files.file_path(path.name.replace(object_files.SEPARATOR, "/", 1)): path for path in page}
            with transaction(self._url) as session:
                known = lifecycle.stored(session, cached)
            for name in cached.keys() - known:
                cached[name].unlink(missing_ok=True)
        self._delete_parts()
        self._abort_uploads()

    def _delete_parts(self) -> None:
        """Delete the parts of objects that killed processes were reading: their patients may be erased by now."""
        ended_before = time.time() - SWEEP_SECONDS
        for folder, pattern in ((object_files.STORE, "*/*"), (object_cache.CACHE, "*")):
            for path in (self._data_dir / folder).glob(pattern + object_cache.PART):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < ended_before:
                        path.unlink()

    def _abort_uploads(self) -> None:
        """Delete the parts of uploads that no process continues: of objects that were deleted since, or have others."""
        begun_before = dt.datetime.now(dt.UTC) - ABANDONED
        try:
            found = [each for each in self._bucket.uploads() if _is_abandoned(each, begun_before)]
            for upload in found:
                self._bucket.abort(upload)
        except Unavailable as error:
            # Files must move also to a service that does not list its uploads.
            log.warning("storage.uploads_left", error=str(error))
        else:
            if found:
                log.info("storage.uploads_aborted", uploads=len(found))

    def _move(self) -> int:
        with transaction(self._url) as session:
            rows, before = moves.due(session, BATCH), current_timeline(session)
        if not rows:
            return 0
        with ThreadPoolExecutor(THREADS, thread_name_prefix="storage") as pool:
            results = _without_single_refusals(rows, [*pool.map(self._put, rows)])
        failed = next((result for result in results if isinstance(result, Unavailable)), None)
        digests = {row.file_path: result for row, result in zip(rows, results, strict=True) if isinstance(result, str)}
        aside = [row.file_path for row, result in zip(rows, results, strict=True) if result is None]
        with transaction(self._url) as session:
            if current_timeline(session) != before:
                # The standby that was promoted may lack these rows: they are no deleted ones.
                return len(rows)
            # Of rows that were deleted, or got another file, while their objects were put.
            file_deletions.note_objects(session, moves.mark(session, digests, self._kept))
            moves.set_aside(session, aside)
        if failed is not None:
            raise failed
        self.outage.end()
        return len(rows)

    def _put(self, row: FileRow) -> str | Unavailable | None:
        """Put the object of a file and return its digest; None if the file cannot be moved for now."""
        path, key = self._data_dir / row.file_path, object_files.key(row.file_path)
        try:
            if not path.exists():
                self._bring_back(row.file_path, key)
            return self._stored(row, path, key)
        except Unavailable as error:
            return error
        except (StorageError, OSError) as error:
            _log_not_moved(row, error)
            return None

    def _bring_back(self, file_path: str, key: str) -> None:
        """Read the object of a file without a local copy: a failover lost the note that it was moved."""
        if (found := self._bucket.head(key)) is not None:
            log.warning("storage.brought_back", file=file_path)
            path = object_files.bring_back(self._settings, Instance(file_path=file_path, object_sha256=found.sha256))
            with transaction(self._url) as session:
                moves.note_size(session, file_path, path.stat().st_size)

    def _stored(self, row: FileRow, path: Path, key: str) -> str:
        """Put the object of a local file, if the file is that of its row; return the SHA-256 of the object's bytes.

        An object that exists is compared: it is left by an interrupted run, and the file may have been sent again
        since. Raises Damaged if the file differs from its row, or the object from the file; Unavailable, OSError.
        """
        if headers.digest(path).sha256 != row.sha256:
            raise Damaged("the file differs from its row: `prelim audit` names it, and a resent object repairs it")
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
            if self._bucket.put(key, file, size, sha256):
                return sha256
        found = self._bucket.head(key)
        if found is None:
            raise Unavailable(f"{self._bucket.name} refuses {key}, and does not have it")
        if (found.sha256, found.size) == (sha256, size) or self._is_version(row, found.sha256):
            return found.sha256
        name = self._bucket.name
        raise Damaged(f"{name} has another object as {key}, which is kept: find out who wrote it, and move it away")

    def _is_version(self, row: FileRow, sha256: str) -> bool:
        """Return whether an object has the data set of its row, with another header: the file was sent again."""
        with object_files.downloaded(self._settings, row.file_path) as (path, found):
            return found == sha256 and headers.digest(path).sha256 == row.sha256

    def _delete_copies(self) -> int:
        """Delete local copies whose objects are still there; the others are moved again."""
        with transaction(self._url) as session:
            rows = moves.to_delete(session, DELETED)
        if not rows:
            return 0
        with ThreadPoolExecutor(THREADS, thread_name_prefix="storage") as pool:
            found = dict(zip((row.file_path for row in rows), pool.map(self._object, rows), strict=True))
        gone = [row.file_path for row in rows if found[row.file_path] is None]
        if gone:
            log.error("storage.objects_lost", objects=len(gone))
        paths = found.keys() - set(gone)
        for path in paths:
            (self._data_dir / path).unlink(missing_ok=True)
        for folder in {(self._data_dir / path).parent for path in paths}:
            with suppress(FileNotFoundError):
                sync_directory(folder)
        with transaction(self._url) as session:
            moves.return_to_disk(session, [path for path in gone if (self._data_dir / path).exists()])
            # A lost object without a local copy is for the audit.
            moves.deleted(session, rows, {path: size for path, size in found.items() if size is not None})
        return len(paths)

    def _object(self, row: CopyRow) -> int | None:
        """Return the size of a file's object; None if it is missing, or another one."""
        found = self._bucket.head(object_files.key(row.file_path))
        try:
            size = (self._data_dir / row.file_path).stat().st_size
        except FileNotFoundError:  # nothing is deleted
            size = found.size if found is not None else 0
        is_whole = object_files.is_whole(self._settings, row, found, size)
        return found.size if found is not None and is_whole else None


def _without_single_refusals(
    rows: Sequence[FileRow], results: list[str | Unavailable | None]
) -> list[str | Unavailable | None]:
    """Set files aside that the object storage refuses although it takes later ones: the others must not wait for them.

    If it takes none after them, the account may have lost its rights, and all wait.
    """
    last = max((number for number, result in enumerate(results) if isinstance(result, str)), default=0)
    for number, result in enumerate(results[:last]):
        if isinstance(result, Refused):
            _log_not_moved(rows[number], result)
            results[number] = None
    return results


def _log_not_moved(row: FileRow, error: Exception) -> None:
    cause = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
    log.error("storage.not_moved", instance_id=str(row.id), file=row.file_path, cause=cause)


def _is_abandoned(upload: Upload, begun_before: dt.datetime) -> bool:
    """Return whether an upload is an old one of a stored file; without a prefix, a bucket can have those of others."""
    is_old = upload.begun_at is not None and upload.begun_at < begun_before
    return is_old and object_files.KEY.fullmatch(upload.key) is not None


def _pages(folder: Path, pattern: str) -> Iterator[Sequence[Path]]:
    paths = folder.glob(pattern)
    while page := [*itertools.islice(paths, PAGE)]:
        yield page
