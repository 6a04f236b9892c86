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
    """Create the file of the lock. Only backups do, as their user: a restore may run as root."""
    (folder / NAME).touch(mode=0o600)


@contextmanager
def shared(folder: Path) -> Iterator[None]:
    """Keep backups from deleting within the block; only a warning if the folder cannot be locked.

    As one that has only backups of an earlier release.
    """
    with ExitStack() as stack:
        try:
            # To read: NFS refuses a shared lock on a file that was opened to be written only.
            file = stack.enter_context((folder / NAME).open("rb"))
            fcntl.flock(file, fcntl.LOCK_SH)
        except OSError as error:
            log.warning("restore.folder_not_locked", error=error.strerror, remedy="run no backup meanwhile")
        yield


@contextmanager
def exclusive(folder: Path) -> Iterator[bool]:
    """Yield whether files may be deleted within the block: False while a restore or a verification reads the folder."""
    with (folder / NAME).open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            may_delete = True
        except BlockingIOError:
            may_delete = False
        yield may_delete
