"""Keep backups from deleting copies that a restore or a verification reads, perhaps on another machine."""

from __future__ import annotations

import fcntl
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = structlog.get_logger()

#: File in the folder of the backups on which each reader holds a shared lock.
NAME = "readers"


def prepare(folder: Path) -> None:
    """Create the file, as the user of the backups: a reader, who may be root, does not."""
    (folder / NAME).touch(mode=0o600)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Let nothing be deleted within the block; a folder without the file has backups of earlier releases only."""
    with ExitStack() as stack:
        try:
            # To read: NFS refuses a shared lock on a file that was opened to be written only.
            file = stack.enter_context((folder / NAME).open("rb"))
            fcntl.flock(file, fcntl.LOCK_SH)
        except OSError as error:
            log.warning("restore.folder_not_locked", error=error.strerror, advice="run no backup meanwhile")
        yield


@contextmanager
def deleting(folder: Path) -> Iterator[bool]:
    """Let no reader begin within the block; False if one reads already, or that cannot be told."""
    with (folder / NAME).open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            may_delete = True
        except OSError:  # also of a file system without locks
            may_delete = False
        yield may_delete
