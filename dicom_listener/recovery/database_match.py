"""Compare a database with the stored files: whether its rows name them."""

from __future__ import annotations

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


def names_none(settings: Settings) -> bool:
    """Return whether no row names a file that was stored before the noted timeline was seen last; False without any.

    Not the rows are counted: files that arrive meanwhile get rows in the wrong database, too. Raises OSError,
    Unavailable, SQLAlchemyError.
    """
    seen = Spool(settings.spool).timeline.stat().st_mtime
    paths = itertools.chain(lost_rows.stored_before(settings, seen), lost_objects.stored_before(settings, seen))
    is_any = False
    while page := [*itertools.islice(paths, lost_rows.PAGE)]:
        if lost_rows.known(settings, page):
            return False
        is_any = True
    return is_any


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
