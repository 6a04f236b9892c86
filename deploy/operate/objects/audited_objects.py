"""Compare the objects in the object storage with the rows of their files, for the audit."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from db.operations.invariants import Violation
from db.session import reading, transaction
from db.storage import moves, object_files
from db.storage.errors import StorageError, Unavailable
from db.studies import lifecycle
from db.studies.deletion import file_deletions
from dicom_listener.recovery import lost_objects
from dicom_listener.spool import object_tag
from dicom_listener.spool.durable import COMPLETE, Spool, sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from db.settings import Settings

    class Row(Protocol):
        """Columns of an instance."""

        @property
        def file_path(self) -> str: ...  # noqa: D102
        @property
        def object_sha256(self) -> str | None: ...  # noqa: D102
        @property
        def file_bytes(self) -> int: ...  # noqa: D102


#: Keys looked up at a time.
PAGE = 1000

MISSING = "every object of a row is in the object storage"
DIFFERS = "every object has the digest of its row"
NO_ROW = "every object in the object storage has a row"
AWAY = "the object storage can be read"


class Objects:
    """Objects of one installation; the first failure of the storage ends their examination."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._failure: str | None = None

    def violated(self, row: Row) -> str | None:
        """Return the rule that the object of a row violates; None also if it has none, or the storage fails."""
        if row.object_sha256 is None or self._failure is not None:
            return None
        try:
            found = object_files.required(object_files.bucket(self._settings)).head(object_files.key(row.file_path))
            if found is None:
                return MISSING
            return None if object_files.is_whole(self._settings, row, found, row.file_bytes) else DIFFERS
        except Unavailable as error:
            self._failure = str(error)
            return None

    def unknown(self) -> Iterator[Violation]:
        """Yield the objects that no row has, and whether the examination has failed; nothing without a bucket."""
        bucket = object_files.bucket(self._settings)
        try:
            if bucket is not None and self._failure is None:
                listed = bucket.objects()
                while page := [found.key for found in itertools.islice(listed, PAGE)]:
                    yield from self._unknown(page)
        except Unavailable as error:
            self._failure = str(error)
        if self._failure is not None:
            yield Violation(AWAY, self._failure)

    def _unknown(self, keys: list[str]) -> Iterator[Violation]:
        paths = {object_files.file_path(key) for key in keys}
        with reading(self._settings.database()) as session:
            known = lifecycle.stored(session, paths) | file_deletions.noted(session, paths)
        yield from (Violation(NO_ROW, path) for path in sorted(paths - known))


def repair_missing(settings: Settings, path: str) -> bool:
    """Have a file moved again whose object is missing, if it is on local disk; return whether it is."""
    if not (settings.operations.data_dir / path).is_file():
        return False
    with transaction(settings.database()) as session:
        moves.return_to_disk(session, [path])
    return True


def repair_unknown(settings: Settings, path: str) -> bool:
    """Return an object without a row to the inbox, where it is indexed; return whether it could be read."""
    try:
        local = lost_objects.bring_back(settings, path)
    except (StorageError, ValueError):
        return False
    spool = Spool(settings.spool)
    received = spool.inbox / f"{local.stem}{object_tag.read(local)}{COMPLETE}"
    # Under the name by which the indexer stores it where it is: it has its object then.
    received = received if spool.stored_path(received) == local else spool.inbox / local.name
    with suppress(FileExistsError):
        os.link(local, received)
    sync_directory(spool.inbox)
    return True


#: Repair of each rule that has one.
REPAIRS = {MISSING: repair_missing, NO_ROW: repair_unknown}
