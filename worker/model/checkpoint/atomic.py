"""Create a directory atomically: it appears complete or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: File in every partial directory, locked by its writer: an unlocked one belongs to a process that has died.
MARKER = ".prelim-unfinished"


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory beside *target* that is renamed to it on success and removed on failure.

    Raises ConfigurationError if it cannot be written.
    """
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        partial = target.with_name(f"{_prefix(target)}{uuid.uuid4().hex[:12]}")
        partial.mkdir(parents=True)
        try:
            with (partial / MARKER).open("wb") as marker:
                _lock(marker)
                yield partial
                make_readable(partial)
                _sync([*partial.iterdir(), partial])
                partial.rename(target)
                _sync([target.parent])
            (target / MARKER).unlink()
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            _remove_empty(missing)
    except OSError as error:
        raise ConfigurationError(f"{target} cannot be written: {error}") from error


def remove_partial_directories(target: Path) -> None:
    """Remove partial directories that killed runs left beside *target*: only those with an unlocked marker."""
    for marker in target.parent.glob(f"*/{MARKER}"):
        if marker.parent.name.startswith(_prefix(target)) and _is_abandoned(marker):
            shutil.rmtree(marker.parent, ignore_errors=True)


def make_readable(directory: Path) -> None:
    """Make a directory of files readable by all users, independent of the umask.

    A checkpoint is converted by one user and run by another, for example in a container; it holds no patient data.
    """
    for path in directory.iterdir():
        path.chmod(0o644)
    directory.chmod(0o755)


def _remove_empty(directories: list[Path]) -> None:
    for directory in directories:
        with suppress(OSError):
            directory.rmdir()


def _prefix(target: Path) -> str:
    return f".{target.name}.unfinished-"


def _is_abandoned(marker: Path) -> bool:
    try:
        with marker.open("ab") as file:
            _lock(file)
    except OSError:
        return False
    return True


def _lock(file: IO[bytes]) -> None:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync(paths: list[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
