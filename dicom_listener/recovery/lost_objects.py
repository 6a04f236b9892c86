"""Objects in the object storage without a row: brought back to local disk, from where their files are indexed again."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from db.models import Instance
from db.storage import object_files
from db.storage.errors import Missing
from dicom_listener.recovery import lost_rows
from dicom_listener.spool.durable import sync_directory

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings


def without_row(settings: Settings, since: dt.datetime) -> Iterator[str]:
    """Yield the paths of objects put after *since* that neither a row nor a noted deletion names.

    The file of each may be in an inbox still. Raises Unavailable.
    """
    listed = object_files.required(object_files.bucket(settings)).objects()
    paths = (
        object_files.file_path(found.key)
        for found in listed
        if found.modified_at > since and object_files.KEY.fullmatch(found.key)
    )
    while page := [*itertools.islice(paths, lost_rows.PAGE)]:
        yield from sorted(set(page) - lost_rows.known(settings, page))


def stored_before(settings: Settings, seen: float | None) -> Iterator[str]:
    """Yield the paths of objects that were put before a time, without it of all; raises Unavailable.

    None without an object storage.
    """
    bucket = object_files.bucket(settings)
    for found in () if bucket is None else bucket.objects():
        is_seen = seen is None or found.modified_at.timestamp() < seen
        if is_seen and object_files.KEY.fullmatch(found.key):
            yield object_files.file_path(found.key)


def bring_back(settings: Settings, file_path: str) -> Path:
    """Read an object to its place in the store, durably, and return its path; raises StorageError, OSError."""
    key = object_files.key(file_path)
    if not object_files.KEY.fullmatch(key):
        raise ValueError("the key is not that of a stored file")
    found = object_files.required(object_files.bucket(settings)).head(key)
    if found is None:
        raise Missing("the object was deleted meanwhile")
    local = settings.operations.data_dir / file_path
    local.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    object_files.bring_back(settings, Instance(file_path=file_path, object_sha256=found.sha256))
    sync_directory(local.parent)
    return local
