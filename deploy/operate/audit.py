"""Verify the invariants of the database (db.operations.invariants) and of the stored files (`prelim audit`).

May run beside all other processes: a file that is moved during the audit is checked again before it counts as a
violation.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from sqlalchemy import exists, select

from db.models import Instance, Quarantined
from db.operations import invariants
from db.operations.invariants import Violation
from db.session import transaction
from dicom_listener.indexing import headers
from dicom_listener.spool import file_meta
from dicom_listener.spool.durable import COMPLETE, PART, Spool, sync_directory, sync_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.console import Console

    from db.settings import Settings

    Rows = type[Instance | Quarantined]

#: Seconds without a new byte after which a part file is abandoned: associations end sooner. Younger ones, and the
#: empty ones that the listener creates in advance, are in use.
STALE_SECONDS = 3600
#: Rows read at a time.
PAGE = 1000

NO_FILE = "every row has its file"
OTHER_SIZE = "every file has the size of its row"
OTHER_DIGEST = "every file has the digest of its row"
NO_ROW = "every stored file has a row or is in the inbox"
STALE = "no part file is abandoned"


def show(settings: Settings, console: Console, *, repair: bool) -> int:
    """Print the violations, repair them if *repair* and no data can be lost; return the number that remain."""
    found = check(settings)
    left = [violation for violation in found if not (repair and repair_violation(settings, violation))]
    for violation in found:
        repaired = "" if violation in left else " (repaired)"
        console.print(f"violation: {violation.rule}: {violation.subject}{repaired}", highlight=False, soft_wrap=True)
    if not found:
        console.print("audit passed: 0 violations")
    return len(left)


def check(settings: Settings) -> list[Violation]:
    """Return the violations in the database and on disk; reads every stored file."""
    with transaction(settings.database()) as session:
        found = invariants.check(session)
    for rows in (Instance, Quarantined):
        found += _files_of(rows, settings)
    return found + list(_without_row(settings)) + list(_half_received(settings))


def repair_violation(settings: Settings, violation: Violation) -> bool:
    """Repair *violation* if nothing can be lost by it; return whether it was repaired."""
    repairs: dict[str, Callable[[Path, Spool], None]] = {NO_ROW: _back_to_inbox, STALE: _recover}
    if violation.rule not in repairs:
        return False
    repairs[violation.rule](settings.operations.data_dir / violation.subject, Spool(settings.spool))
    return True


def _files_of(rows: Rows, settings: Settings) -> Iterator[Violation]:
    for file_path, file_bytes, sha256 in _listed(rows, settings):
        rule = _violated(settings.operations.data_dir / file_path, headers.Digest(file_bytes, sha256))
        if rule:
            yield Violation(rule, file_path)


def _listed(rows: Rows, settings: Settings) -> Iterator[tuple[str, int, str]]:
    """Yield path, size and digest of every row; no transaction is open while the files are read."""
    last = ""
    while True:
        page = select(rows.file_path, rows.file_bytes, rows.sha256).where(rows.file_path > last)
        with transaction(settings.database()) as session:
            listed = session.execute(page.order_by(rows.file_path).limit(PAGE)).all()
        if not listed:
            return
        yield from map(tuple, listed)
        last = listed[-1].file_path


def _violated(path: Path, recorded: headers.Digest) -> str | None:
    try:
        if path.stat().st_size != recorded.file_bytes:
            return OTHER_SIZE
        return None if headers.digest(path) == recorded else OTHER_DIGEST
    except FileNotFoundError:
        return NO_FILE


def _without_row(settings: Settings) -> Iterator[Violation]:
    spool = Spool(settings.spool)
    folders: tuple[tuple[Rows, Path], ...] = ((Instance, spool.store), (Quarantined, spool.quarantine))
    for rows, folder in folders:
        for path in folder.rglob(f"*{COMPLETE}"):
            file_path = path.relative_to(settings.operations.data_dir).as_posix()
            if not _accounted_for(rows, file_path, path, settings):
                yield Violation(NO_ROW, file_path)


def _accounted_for(rows: Rows, file_path: str, path: Path, settings: Settings) -> bool:
    # Twice: the indexer commits the row before it removes the file from the inbox. It removes a copy that it does not
    # need before that.
    return (
        _has_row(rows, file_path, settings)
        or any(Spool(settings.spool).inbox.glob(f"{path.stem}*{COMPLETE}"))
        or not path.exists()
        or _has_row(rows, file_path, settings)
    )


def _has_row(rows: Rows, file_path: str, settings: Settings) -> bool:
    with transaction(settings.database()) as session:
        return bool(session.scalar(select(exists().where(rows.file_path == file_path))))


def _half_received(settings: Settings) -> Iterator[Violation]:
    for path in Spool(settings.spool).inbox.glob(f"*{PART}"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if status.st_size and time.time() - status.st_mtime > STALE_SECONDS:
            yield Violation(STALE, path.relative_to(settings.operations.data_dir).as_posix())


def _back_to_inbox(path: Path, spool: Spool) -> None:
    """Return the file to the inbox: the indexer inserts its row, or finds the object in another file."""
    os.link(path, spool.inbox / path.name)
    if path.parent == spool.quarantine:
        path.unlink()
    sync_directory(spool.inbox)


def _recover(path: Path, spool: Spool) -> None:
    """Recover as the listener does at its start: a valid seal makes an object, any other file was not acknowledged."""
    if file_meta.is_complete(path):
        sync_file(path)
        with contextlib.suppress(FileExistsError):
            os.link(path, path.with_suffix(COMPLETE))
        sync_directory(spool.inbox)
    path.unlink()
