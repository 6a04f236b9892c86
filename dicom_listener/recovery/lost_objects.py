"""Objects in the object storage without a row: brought back to local disk, from where their files are indexed again."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import structlog

from db.models import Instance
from db.storage import object_files
from db.storage.errors import Missing
from dicom_listener.recovery import lost_rows
from dicom_listener.spool.durable import Spool, read_text, replace_text, sync_directory

if TYPE_CHECKING:
    import datetime as dt
    import threading
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings
    from dicom_listener.recovery.noted_timeline import Timeline

log = structlog.get_logger()

#: Objects that are looked up before the position is noted, 1,000 with each request. After a kill, or a request that
#: fails, this many are looked up again.
PART = 20_000


class ObjectSearch:
    """Goes through the objects once after a failover, a part at a time, and notes how far it is.

    Keys have no date, so that all objects are listed; memory is that of one part. Killed, or without the object
    storage, it continues with the part that was not completed.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = Spool(settings.spool).objects_searched
        self._of: list[str] = []
        #: Last key of the completed parts, and of the current one; None at the end of the bucket.
        self._after = ""
        self._last: str | None = ""

    def begin(self, before: Timeline, now: Timeline) -> None:
        """Begin, or continue, the search of one failover."""
        if self._of != [*before, *now]:
            self._of = [*before, *now]
            self._after = self._noted()
        self._last = self._after

    def part(self, since: dt.datetime, stop: threading.Event) -> set[str]:
        """Return the paths of the objects of a part, put after *since*, that neither a row nor a noted deletion names.

        The same part until it is completed. The file of each may be in an inbox still. Raises Unavailable.
        """
        bucket = object_files.required(object_files.bucket(self._settings))
        listed, found, number = itertools.islice(bucket.objects(self._after), PART), set[str](), 0
        while not stop.is_set() and (page := [*itertools.islice(listed, lost_rows.PAGE)]):
            keys = [each.key for each in page if each.modified_at > since and object_files.KEY.fullmatch(each.key)]
            paths = {object_files.file_path(key) for key in keys}
            found |= paths - lost_rows.known(self._settings, paths)
            self._last, number = page[-1].key, number + len(page)
        if number < PART and not stop.is_set():
            self._last = None
        return found

    def complete(self) -> bool:
        """Note that rows name all objects of the part; return whether it was the last one."""
        if self._last is None:
            self._path.unlink(missing_ok=True)
            self._of = []
            return True
        self._after = self._last
        replace_text(self._path, json.dumps([*self._of, self._after]))
        log.info("objects.searched", after=self._after)
        return False

    def _noted(self) -> str:
        """Return the last key of the parts that an earlier process has completed; empty without any."""
        try:
            *of, after = json.loads(read_text(self._path))
        except (FileNotFoundError, ValueError, TypeError):  # nothing is missed from the beginning
            return ""
        return after if of == self._of and isinstance(after, str) else ""


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
