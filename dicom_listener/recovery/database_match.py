"""Compare a database with the stored files: whether its rows name them."""

from __future__ import annotations

import enum
import itertools
import os
from typing import TYPE_CHECKING

from db.reports import image_files
from db.storage import object_files
from dicom_listener.recovery import lost_objects, lost_rows
from dicom_listener.spool.durable import Spool

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings


class Match(enum.Enum):
    """Result of a comparison."""

    #: There are neither files nor rows.
    BOTH_EMPTY = enum.auto()
    NAMED = enum.auto()
    #: There are files, and no row names any of them.
    NONE_NAMED = enum.auto()
    #: There are rows, and no files at all: the data directory is another one, or is not mounted.
    NO_FILES = enum.auto()


#: Results with which a database is not the one of the files, as the beginning of a sentence.
PROBLEMS = {
    Match.NONE_NAMED: "the database names none of the stored files",
    Match.NO_FILES: "the database names files, but none are stored",
}


def compare(settings: Settings, seen: float | None = None) -> Match:
    """Return whether a row names a stored file; with a time *seen*, a row and a file from before it.

    Rows are not counted: files that arrive after *seen* get rows in the wrong database, too. Files that wait in an
    inbox may have no row yet, and those of deleted studies have none any more. If no file is from before *seen*, those
    from after it count, too: the times of moved files may not have been kept. Reads until a row names a file; raises
    OSError, Unavailable, SQLAlchemyError.
    """
    paths = itertools.chain(lost_rows.stored_before(settings, seen), lost_objects.stored_before(settings, seen))
    is_any = are_lost = False
    while page := [*itertools.islice(paths, lost_rows.PAGE)]:
        if lost_rows.are_named(settings, page, seen):
            return Match.NAMED
        is_any, are_lost = True, are_lost or lost_rows.are_without_row(settings, page, seen)
    if are_lost:
        return Match.NONE_NAMED
    if is_any or not lost_rows.are_any(settings, seen):
        return Match.BOTH_EMPTY
    return Match.NAMED if seen is not None and _is_any_named(settings, seen) else Match.NO_FILES


def _is_any_named(settings: Settings, seen: float) -> bool:
    """Return whether a row from before *seen* names a file of any time: a copy may have the time of its making."""
    paths = itertools.chain(lost_rows.stored_before(settings, None), lost_objects.stored_before(settings, None))
    while page := [*itertools.islice(paths, lost_rows.PAGE)]:
        if lost_rows.are_named(settings, page, seen):
            return True
    return False


def stored(settings: Settings) -> str | None:
    """Return where there are files that only a process with a database stores; raises StorageError, OSError."""
    spool = Spool(settings.spool)
    for folder in (spool.store, spool.quarantine, settings.operations.data_dir / image_files.FOLDER):
        if _has_files(folder):
            return str(folder)
    bucket = object_files.bucket(settings)
    if bucket is not None and any(object_files.KEY.fullmatch(found.key) for found in bucket.objects()):
        return f"the object storage {bucket.name}"
    return None


def _has_files(folder: Path) -> bool:
    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    return any(files for _, _, files in os.walk(folder, onerror=refuse))
