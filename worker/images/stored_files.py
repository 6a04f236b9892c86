"""Locate the files of a study, which may have been moved to the object storage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import structlog

from db.storage.errors import StorageError, Unavailable
from worker.images.study import StoredInstance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from db.storage.object_files import Files, StoredFile

    class Row(StoredFile, Protocol):
        """Columns of a reportable instance."""

        @property
        def sop_instance_uid(self) -> str: ...  # noqa: D102


log = structlog.get_logger()

#: Objects read at the same time: a request takes 1 to 50 ms, most of it waiting.
THREADS = 8


def located(stored: Files, rows: Sequence[Row], on_progress: Callable[[], None]) -> list[StoredInstance]:
    """Return the files of a study; one that is lost does not exist, and the report names the missing image.

    *on_progress* is called after each. Raises Unavailable if any cannot be read now: no report is written from a part.
    """
    if all(row.object_sha256 is None for row in rows):
        return [StoredInstance(stored.path(row), row.sop_instance_uid) for row in rows]
    with ThreadPoolExecutor(THREADS, thread_name_prefix="objects") as pool:
        paths = pool.map(lambda row: _path(stored, row), rows)
        return [
            StoredInstance(path, row.sop_instance_uid)
            for path, row in zip(_each(paths, on_progress), rows, strict=True)
        ]


def _path(stored: Files, row: Row) -> Path:
    try:
        return stored.path(row)
    except Unavailable:
        raise
    except StorageError as error:
        log.error("storage.object_lost", error=str(error))  # noqa: TRY400 - no fault of the program
        return stored.lost(row)


def _each(paths: Iterable[Path], on_progress: Callable[[], None]) -> Iterable[Path]:
    for path in paths:
        on_progress()
        yield path
