"""Keep backups from deleting copies that a restore or a verification reads, perhaps on another machine."""

from __future__ import annotations

import fcntl
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: File in the folder of the backups on which each reader holds a shared lock.
NAME = "readers"


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Let nothing be deleted within the block; without effect if the folder is mounted read-only here."""
    with ExitStack() as stack:
        with suppress(OSError):
            file = stack.enter_context((folder / NAME).open("a"))
            fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def deleting(folder: Path) -> Iterator[bool]:
    """Let no reader begin within the block; False if one reads already, and nothing may be deleted."""
    with (folder / NAME).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
