"""A directory that appears whole or not at all."""

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

#: Lies in every directory made here. Locked while its maker lives, so that others know what nobody will finish.
MARKER = ".prelim-unfinished"


@contextmanager
def whole_or_nothing(target: Path) -> Iterator[Path]:
    """A directory of its own beside *target* that becomes it at the end, or goes."""
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        partial = target.with_name(f"{_prefix(target)}{uuid.uuid4().hex[:12]}")
        partial.mkdir(parents=True)
        try:
            with (partial / MARKER).open("wb") as marker:
                _lock(marker)
                yield partial
                open_to_readers(partial)
                _make_durable([*partial.iterdir(), partial])
                partial.rename(target)
                _make_durable([target.parent])
            (target / MARKER).unlink()
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            _remove_empty(missing)
    except OSError as error:
        raise ConfigurationError(f"{target} cannot be written: {error}") from error


def clear_leftovers(target: Path) -> None:
    """Remove what killed runs left beside *target*: only directories with their marker, whose maker is dead."""
    for marker in target.parent.glob(f"*/{MARKER}"):
        if marker.parent.name.startswith(_prefix(target)) and _is_abandoned(marker):
            shutil.rmtree(marker.parent, ignore_errors=True)


def open_to_readers(directory: Path) -> None:
    """Let every user read a directory of files, whatever the umask.

    A checkpoint is converted by one user and run by another, in a container for instance; it holds no patient data.
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


def _make_durable(paths: list[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
