"""Stored files without a row: in the store or in quarantine, and named neither by a row nor by a noted deletion."""

from __future__ import annotations

import datetime as dt
import itertools
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select, text

from db.models import Instance, Quarantined
from db.models.base import any_of
from db.session import reading
from db.studies.deletion import file_deletions
from dicom_listener.spool.durable import COMPLETE, Spool, file_name
from dicom_listener.spool.inbox_listing import received

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from db.settings import Settings

#: Names looked up at a time.
PAGE = 1000


def suspects(settings: Settings, errors: list[OSError]) -> Iterator[set[str]]:
    """Yield the paths, relative to the data directory, of files without a row, which may be in an inbox still.

    One set for each page of files; the error of a folder that cannot be listed is added to *errors*.
    """
    names = (path.relative_to(settings.operations.data_dir).as_posix() for path in _files(settings, errors))
    while page := list(itertools.islice(names, PAGE)):
        if found := set(page) - known(settings, page):
            yield found


def stored_before(settings: Settings, seen: float | None) -> Iterator[str]:
    """Yield the paths of stored files that were received before a time, without it of all.

    Raises OSError for a folder that cannot be listed; one that is missing has no files.
    """
    errors: list[OSError] = []
    for path in _files(settings, errors):
        with suppress(FileNotFoundError):
            if seen is None or path.stat().st_mtime < seen:
                yield path.relative_to(settings.operations.data_dir).as_posix()
    if failed := [error for error in errors if not isinstance(error, FileNotFoundError)]:
        raise failed[0]


def are_any(settings: Settings, seen: float | None) -> bool:
    """Return whether there is a row of a file; with a time *seen*, one from before it."""
    query = select(Instance.file_path).limit(1)
    if seen is not None:
        query = query.where(Instance.indexed_at < dt.datetime.fromtimestamp(seen, dt.UTC))
    with reading(settings.database()) as session:
        return session.scalar(query) is not None


def are_named(settings: Settings, file_paths: Collection[str], seen: float | None) -> bool:
    """Return whether a row names one of these files; with a time *seen*, a row from before it.

    The columns are those of every release: the schema may be upgraded afterwards.
    """
    with reading(settings.database()) as session:
        for rows in (Instance, Quarantined):
            query = select(rows.file_path).where(rows.file_path == any_of(file_paths)).limit(1)
            if seen is not None:
                query = query.where(rows.indexed_at < dt.datetime.fromtimestamp(seen, dt.UTC))
            if session.scalar(query) is not None:
                return True
    return False


def are_without_row(settings: Settings, file_paths: Collection[str], seen: float | None) -> bool:
    """Return whether one of these files should have a row: it is not in an inbox, and its deletion is not noted.

    Raises OSError if an inbox cannot be listed.
    """
    errors: list[OSError] = []
    # In this order: the indexer commits the row before it removes the file from the inbox.
    waiting = {file_name(path) for path in received(Spool(settings.spool), errors)}
    if errors:
        raise errors[0]
    left = {path for path in file_paths if Path(path).name not in waiting}
    with reading(settings.database()) as session:
        # Releases without that table noted no deletions.
        if session.scalar(text("SELECT to_regclass('file_deletions') IS NOT NULL")):
            left -= file_deletions.noted(session, left)
    return bool(left) and not are_named(settings, left, seen)


def _files(settings: Settings, errors: list[OSError]) -> Iterator[Path]:
    spool = Spool(settings.spool)
    return (
        Path(directory) / name
        for folder in (spool.store, spool.quarantine)
        for directory, _, files in os.walk(folder, onerror=errors.append)
        for name in files
        if name.endswith(COMPLETE)
    )


def known(settings: Settings, file_paths: Collection[str]) -> set[str]:
    """Return the paths that a row or the note of its deletion names."""
    with reading(settings.database()) as session:
        named = {
            path
            for rows in (Instance, Quarantined)
            for path in session.scalars(select(rows.file_path).where(rows.file_path == any_of(file_paths)))
        }
        return named | file_deletions.noted(session, file_paths)


def confirmed(settings: Settings, file_paths: Collection[str]) -> list[str]:
    """Return those of these stored files that are still there, and neither in an inbox nor in a row."""
    # In this order: the indexer commits the row before it removes the file from the inbox, and removes a copy that it
    # does not need before that.
    errors: list[OSError] = []
    waiting = {file_name(path) for path in received(Spool(settings.spool), errors)}
    if errors:  # each of the files could be in that inbox
        return []
    there = [path for path in file_paths if Path(path).name not in waiting and _is_there(settings, path)]
    lost = sorted(set(there) - known(settings, there))
    # A file whose deletion is no longer noted is deleted.
    return [path for path in lost if _is_there(settings, path)]


def _is_there(settings: Settings, file_path: str) -> bool:
    return os.path.lexists(settings.operations.data_dir / file_path)
