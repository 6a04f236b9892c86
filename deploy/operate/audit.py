"""Verify the invariants of the database (db.operations.invariants), the stored files and the images of reports.

May run beside all other processes: a file that is moved during the audit is checked again before it counts as a
violation.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, null, select

from db.models import Instance, Quarantined
from db.operations import invariants, row_sample
from db.operations.invariants import Violation
from db.session import reading, transaction
from db.storage.errors import StorageError
from db.studies import procedure_steps
from db.studies.deletion import file_deletions
from deploy.launcher import lost_database
from deploy.operate import report_images
from deploy.operate.objects import audited_objects
from deploy.operate.objects.audited_objects import Objects
from dicom_listener.indexing import headers, repair
from dicom_listener.recovery import lost_rows
from dicom_listener.spool.durable import PART, Spool
from dicom_listener.spool.inbox_listing import received

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rich.console import Console
    from sqlalchemy import Row, Select

    from db.settings import Settings

    Rows = type[Instance | Quarantined]
    FileRow = Row[uuid.UUID, str, int, str, str | None]

#: Seconds without a new byte after which a part file is abandoned: associations end sooner. Younger ones, and the
#: empty ones that the listener creates in advance, are in use.
STALE_SECONDS = 3600
#: Seconds after which an acknowledged file should long have left the inbox: a backlog after an outage has a day.
WAITING_SECONDS = 86_400
#: Rows read, and names looked up, at a time.
PAGE = 1000

NO_FILE = "every row has its file"
OTHER_SIZE = "every file has the size of its row"
OTHER_DIGEST = "every file has the digest of its row"
NO_ROW = "every stored file has a row or is in the inbox"
STALE = "no part file is abandoned"
UNREADABLE = "every file can be read"
DELETED_SOON = "the file of a deleted row is deleted within an hour"
INDEXED_SOON = "an acknowledged file is indexed within a day"


@dataclass(frozen=True, slots=True)
class Scope:
    """Part of the files to read; by default all. Rules of the database and names of files are always checked."""

    #: Number of files of each table, drawn by row_sample.
    sample: int | None = None
    #: Age of the oldest row.
    since: dt.timedelta | None = None
    #: Continue where the last audit with it was interrupted; without *sample* and *since*.
    resume: bool = False


EVERYTHING = Scope()


class Position:
    """Id of the last row read of each table, in a file below the data directory; row ids are in order of time."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.operations.data_dir / "audit-position.json"

    def of(self, table: str) -> uuid.UUID | None:
        """Return the id of the last row read of *table*; None before the first."""
        return self._read().get(table)

    def note(self, table: str, row_id: uuid.UUID) -> None:
        """Note that the rows up to *row_id* are read."""
        written = self._path.with_suffix(".new")
        written.write_text(json.dumps(self._read() | {table: row_id}, default=str))
        written.replace(self._path)

    def clear(self) -> None:
        """Begin anew: the audit has read all files."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, uuid.UUID]:
        try:
            return {table: uuid.UUID(row_id) for table, row_id in json.loads(self._path.read_text()).items()}
        except (FileNotFoundError, ValueError, AttributeError):  # damaged by a crash: the audit reads all files
            return {}


def run(settings: Settings, console: Console, *, repair: bool, scope: Scope) -> int:
    """Print violations as `show` does; before a *repair*, raises as `lost_database.require_files` does."""
    if repair:
        lost_database.require_files(settings)
    return show(settings, console, repair=repair, scope=scope)


def show(settings: Settings, console: Console, *, repair: bool, scope: Scope = EVERYTHING) -> int:
    """Print each violation when it is found, repair it if *repair* and no data can be lost; return how many remain."""
    found = left = 0
    for violation in violations(settings, scope):
        found += 1
        repaired = repair and repair_violation(settings, violation)
        left += not repaired
        line = f"violation: {violation.rule}: {violation.subject}{' (repaired)' if repaired else ''}"
        console.print(line, highlight=False, soft_wrap=True)
    if not found:
        console.print("audit passed: 0 violations")
    return left


def check(settings: Settings) -> list[Violation]:
    """Return the violations in the database and on disk; reads every stored file."""
    return list(violations(settings))


def violations(settings: Settings, scope: Scope = EVERYTHING) -> Iterator[Violation]:
    """Yield the violations in the database and on disk. No transaction is open while files are read."""
    with reading(settings.database()) as session:
        found = invariants.check(session, settings.queue.max_attempts)
        found += [Violation(DELETED_SOON, file_path) for file_path in file_deletions.overdue(session)]
    yield from found
    yield from _waiting(settings)
    yield from _half_received(settings)
    yield from _without_row(settings)
    objects = Objects(settings)
    for rows in (Instance, Quarantined):
        yield from _files_of(rows, settings, scope, objects)
    yield from objects.unknown()
    yield from report_images.violations(settings, scope.sample, scope.since)
    if scope.resume:
        Position(settings).clear()


def repair_violation(settings: Settings, violation: Violation) -> bool:
    """Repair *violation* if nothing can be lost by it; return whether it was repaired."""
    repairs: dict[str, Callable[[Path, Spool], None]] = {NO_ROW: repair.return_to_inbox, STALE: repair.recover_part}
    files_repairs: dict[str, Callable[[Settings, str], bool]] = {
        report_images.UNUSED: report_images.remove_file,
        OTHER_SIZE: repair.note_size,
        **audited_objects.REPAIRS,
    }
    try:
        if violation.rule in repairs:
            repairs[violation.rule](settings.operations.data_dir / violation.subject, Spool(settings.spool))
            return True
        if violation.rule in files_repairs:
            return files_repairs[violation.rule](settings, violation.subject)
        if violation.rule == DELETED_SOON:
            return file_deletions.delete_files(settings) is None
    except (OSError, StorageError, file_deletions.BackupRunning):  # disk or storage fail, or a backup copies the file
        return False
    if violation.rule != invariants.STEP_ENDS:
        return False
    with transaction(settings.database()) as session:
        procedure_steps.abandon(session, violation.subject.split()[-1])
    return True


def _files_of(rows: Rows, settings: Settings, scope: Scope, objects: Objects) -> Iterator[Violation]:
    for page in _pages(rows, settings, scope):
        for row in page:
            rule = _violated(settings, row, objects)
            # The row or its file may have changed since: another object replaced it, or the file was repaired.
            if rule is not None and (row_now := _again(rows, settings, row.id)) is not None:
                rule = _violated(settings, row_now, objects)
                if rule is not None:
                    yield Violation(rule, row_now.file_path)


def _pages(rows: Rows, settings: Settings, scope: Scope) -> Iterator[Sequence[FileRow]]:
    """Yield the rows in pages, each read in a transaction of its own."""

    def columns(rows: Rows) -> Select[uuid.UUID, str, int, str, str | None]:
        return _columns(rows).where(*(() if scope.since is None else (rows.indexed_at > func.now() - scope.since,)))

    if scope.sample is not None:
        with reading(settings.database()) as session:
            sample = row_sample.draw(session, rows, scope.sample, columns)
        yield sample
        return
    query, position = columns(rows).order_by(rows.id).limit(PAGE), Position(settings) if scope.resume else None
    read = position.of(rows.__tablename__) if position else None
    with reading(settings.database()) as session:
        page = session.execute(query if read is None else query.where(rows.id > read)).all()
    while page:
        yield page
        if position:
            position.note(rows.__tablename__, page[-1].id)
        with reading(settings.database()) as session:
            page = session.execute(query.where(rows.id > page[-1].id)).all()


def _columns(rows: Rows) -> Select[uuid.UUID, str, int, str, str | None]:
    moved = Instance.object_sha256 if rows is Instance else null().label("object_sha256")
    return select(rows.id, rows.file_path, rows.file_bytes, rows.sha256, moved)


def _again(rows: Rows, settings: Settings, row_id: uuid.UUID) -> FileRow | None:
    with reading(settings.database()) as session:
        return session.execute(_columns(rows).where(rows.id == row_id)).one_or_none()


def _violated(settings: Settings, row: FileRow, objects: Objects) -> str | None:
    path, recorded = settings.operations.data_dir / row.file_path, headers.Digest(row.file_bytes, row.sha256)
    try:
        if not recorded.sha256:  # in quarantine because it cannot be read
            path.lstat()
            return None
        if path.stat().st_size != recorded.file_bytes:
            return OTHER_SIZE
        return objects.violated(row) if headers.digest(path) == recorded else OTHER_DIGEST
    except FileNotFoundError:
        return NO_FILE if row.object_sha256 is None else objects.violated(row)
    except OSError:
        # A file with a row in quarantine may be one that the disk cannot even find.
        return UNREADABLE if recorded.sha256 else None


def _without_row(settings: Settings) -> Iterator[Violation]:
    errors: list[OSError] = []
    for page in lost_rows.suspects(settings, errors):
        yield from (Violation(NO_ROW, file_path) for file_path in lost_rows.confirmed(settings, page))
    yield from map(_unreadable, errors)


def _unreadable(error: OSError) -> Violation:
    return Violation(UNREADABLE, f"{error.filename} ({error.strerror})")


def _waiting(settings: Settings) -> Iterator[Violation]:
    """Yield acknowledged files that wait too long in the inbox, without those that quarantine names."""
    old: list[str] = []
    errors: list[OSError] = []
    for path in received(Spool(settings.spool), errors):
        with contextlib.suppress(OSError):  # removed since, or one that the indexer sets aside
            if time.time() - path.lstat().st_mtime > WAITING_SECONDS:
                old.append(path.relative_to(settings.operations.data_dir).as_posix())
    yield from map(_unreadable, errors)
    for file_path in sorted(set(old) - lost_rows.known(settings, old)):
        if os.path.lexists(settings.operations.data_dir / file_path):
            yield Violation(INDEXED_SOON, file_path)


def _half_received(settings: Settings) -> Iterator[Violation]:
    for path in received(Spool(settings.spool), [], PART):
        try:
            status = path.stat()
        except OSError:  # removed since, or the disk fails: the listener logs the latter at its start
            continue
        if status.st_size and time.time() - status.st_mtime > STALE_SECONDS:
            yield Violation(STALE, path.relative_to(settings.operations.data_dir).as_posix())
