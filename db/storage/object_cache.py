"""The cache of objects below the data directory: its size, and the files of it that are in use."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

#: Cache of objects, below the data directory.
CACHE = "object_cache"
#: Endings of a user's file with its lock, and of a file of one reader: a part of an object, or a pin.
USER, PART = ".user", ".part"
#: Seconds after which a user without a lock has ended: it takes the lock sooner.
USER_SECONDS = 60.0
#: Seconds between two measures of the cache.
MEASURE_SECONDS = 5.0


def part(path: Path) -> Path:
    """Return a path beside *path* for one reader or writer, by which `forget` finds whose it is."""
    return path.with_name(f"{path.name}.{uuid.uuid4()}{PART}")


def forget(folder: Path, names: Collection[str]) -> None:
    """Delete the files of *names* in a folder with all parts and pins of them, also of readers that read them now.

    A reader cannot complete a part afterwards: its path is gone. Raises OSError.
    """
    # Parts first: one that is renamed meanwhile has the name that is deleted last.
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        parts = [entry.path for entry in entries if entry.name.endswith(PART) and _owner(entry.name) in names]
        for path in parts:
            Path(path).unlink(missing_ok=True)
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _owner(part_name: str) -> str:
    """Return the name of the file of a part or pin."""
    return part_name.removesuffix(PART).rpartition(".")[0]


def use(cached: Path) -> bool:
    """Note the use of a cached object; return whether it is there."""
    try:
        os.utime(cached)
    except FileNotFoundError:
        return False
    return True


class _Measure:
    """Time of the last measure of the cache by this process."""

    at = 0.0


def shrink(cache: Path, limit: int) -> None:
    """Delete the objects used longest ago until the cache has its size, without those that may be in use."""
    if time.monotonic() < _Measure.at + MEASURE_SECONDS:
        return
    _Measure.at = time.monotonic()
    found = []
    with os.scandir(cache) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another process deletes, too
                found.append((entry, entry.stat()))
    users = [(entry, status) for entry, status in found if entry.name.endswith(USER)]
    began = min((status.st_mtime for entry, status in users if _is_alive(entry.path)), default=time.time())
    total = sum(status.st_size for _, status in found)
    for entry, status in sorted(found, key=lambda pair: pair[1].st_mtime):
        if total <= limit or status.st_mtime >= began:
            return
        if not entry.name.endswith(USER):
            with contextlib.suppress(FileNotFoundError):
                Path(entry.path).unlink()
            total -= status.st_size


def _is_alive(path: str) -> bool:
    """Return whether a user of the cache is alive; the file of one that ended without closing is deleted."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        if os.fstat(descriptor).st_mtime > time.time() - USER_SECONDS:
            return True
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
        return False
    finally:
        os.close(descriptor)
