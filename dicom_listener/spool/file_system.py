"""Requirements of a spool on its file system: hard links between its directories, and enough inodes."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

import structlog

from db.errors import ConfigurationError
from db.operations import disk

if TYPE_CHECKING:
    from pathlib import Path

    from dicom_listener.spool.durable import Spool

log = structlog.get_logger()

#: Inodes in all, used ones included: the reserve, the directories of the store, and room for a day of small objects.
MIN_INODES = 10 * disk.RESERVED_INODES
#: Errors of a file system without hard links: vfat, some FUSE and SMB mounts.
NO_LINKS = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))


def require(spool: Spool, inbox: Path | None = None) -> None:
    """Raise ConfigurationError if the file system of a prepared spool, and of *inbox*, can never hold its objects.

    A disk that is full or fails now is no such case: it is logged, and tried again with each object.
    """
    try:
        probe(spool, inbox)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise ConfigurationError(
                f"inbox, store and quarantine of {spool.root} are on different file systems, and files are linked from"
                " one to the other: put all of them on one file system"
            ) from error
        if error.errno in NO_LINKS:
            raise ConfigurationError(
                f"the file system of {spool.root} has no hard links ({error.strerror}): set PRELIM_DATA_DIR to a"
                " directory on ext4, XFS, btrfs, ZFS or NFS"
            ) from error
        log.error("spool.probe_failed", error=error.strerror)  # noqa: TRY400 - a fault of the disk
    inodes = os.statvfs(spool.root).f_files
    if 0 < inodes < MIN_INODES:
        raise ConfigurationError(
            f"the file system of {spool.root} has only {inodes} inodes in all, one for each object:"
            f" create it with at least {MIN_INODES}, or set PRELIM_DATA_DIR to another one"
        )


def probe(spool: Spool, inbox: Path | None = None) -> None:
    """Write a file to *inbox*, link it as the indexer links an object, read and remove it; raises OSError.

    By default, the inbox is the one without a process.
    """
    name = f".probe-{os.getpid()}"
    written = (inbox or spool.inbox) / name
    links = [spool.store / "00" / name, spool.quarantine / name]
    try:
        _write_and_read(written)
        for link in links:
            os.link(written, link)
    finally:
        for path in (*links, written):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _write_and_read(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"probe")
        file.flush()
        os.fsync(file.fileno())
    if path.read_bytes() != b"probe":
        raise OSError(errno.EIO, os.strerror(errno.EIO))
