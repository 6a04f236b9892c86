"""Own a slot of the spool, and recover the slots whose processes have ended.

A slot belongs to the process that holds the lock on its lock file; the kernel releases the lock at the end of the
process, however it ends. A new process takes the first free slot of its host, so that processes of one host, and hosts
on one spool, need no further agreement. A slot with a lock file that is not locked has an earlier owner: its next owner
or the dispatcher recovers it. The dispatcher removes the lock file afterwards, and the slot once it is empty.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import socket
from typing import TYPE_CHECKING

import structlog

from dicom_listener.spool import inbox
from dicom_listener.spool.associations import AssociationMarks
from dicom_listener.spool.commitment_outbox import CommitmentOutbox

if TYPE_CHECKING:
    from pathlib import Path

    from dicom_listener.spool.durable import Slot, Spool

log = structlog.get_logger()

#: Characters of a host name that are kept in the name of a slot.
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9.-]")


class OwnedSlot:
    """A slot that this process owns until `release`."""

    def __init__(self, slot: Slot, lock: int) -> None:
        self.slot = slot
        self._lock: int | None = lock

    def release(self) -> None:
        """Give the slot up; no effect the second time."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def own(spool: Spool, host: str | None = None) -> OwnedSlot:
    """Lock the first free slot of *host*, by default this one, and recover it; raises OSError."""
    host = NOT_IN_NAMES.sub("_", host or socket.gethostname())
    slot, lock = _first_free(spool, host)
    try:
        slot.prepare()
        _recover(slot)
    except BaseException:
        os.close(lock)
        raise
    return OwnedSlot(slot, lock)


def _first_free(spool: Spool, host: str) -> tuple[Slot, int]:
    for number in itertools.count():
        slot = spool.slot(f"{host}-{number}")
        slot.root.mkdir(mode=0o700, exist_ok=True)
        if (lock := _lock(slot, create=True)) is not None:
            return slot, lock
    raise AssertionError("unreachable")


def recover_abandoned(spool: Spool) -> None:
    """Recover the slots whose processes have ended, and remove the empty ones; raises OSError.

    A slot that cannot be read does not keep the others from being recovered.
    """
    failures: list[OSError] = []
    for slot in spool.slots():
        try:
            _recover_abandoned(slot, keeps_folders=slot.root == spool.root)
        except OSError as error:
            log.error("slot.not_recovered", slot=slot.root.name, error=error.strerror)  # noqa: TRY400 - of the disk
            failures.append(error)
    if failures:
        raise failures[0]


def _recover_abandoned(slot: Slot, *, keeps_folders: bool) -> None:
    """Recover one slot if its process has ended; one that *keeps_folders* is not removed."""
    is_recovered = not slot.lock.exists()
    if is_recovered and (keeps_folders or _has_files(slot)):
        return
    lock = _lock(slot, create=is_recovered)
    if lock is None:
        return
    try:
        _recover(slot)
        slot.status.unlink(missing_ok=True)
        _remove(slot, folders=not keeps_folders)
    finally:
        os.close(lock)


def _recover(slot: Slot) -> None:
    if not slot.inbox.exists():  # the earlier owner ended before it had made its folders
        return
    complete, incomplete = inbox.recover(slot.inbox)
    AssociationMarks(slot).break_off_all()
    CommitmentOutbox(slot.commitments).clear()
    log.info("slot.recovered", slot=slot.root.name, recovered=complete, incomplete_removed=incomplete)


def _lock(slot: Slot, *, create: bool) -> int | None:
    """Lock a slot and return the descriptor of the lock; None if it has an owner, or was removed at this moment."""
    try:
        lock = os.open(slot.lock, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process may have removed it since, and a third one made another.
        if os.path.samestat(slot.lock.stat(), os.fstat(lock)):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def _has_files(slot: Slot) -> bool:
    return any(_has_entries(folder) for folder in slot.folders if folder.exists())


def _has_entries(folder: Path) -> bool:
    """Return whether *folder* is not empty, by its first entry: Path.iterdir would list 100,000 waiting files."""
    with os.scandir(folder) as entries:
        return any(True for _ in entries)


def _remove(slot: Slot, *, folders: bool) -> None:
    """Remove the lock file, and the *folders* that are empty; a slot with files stays until they are indexed."""
    if folders and not _has_files(slot):
        for folder in slot.folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
    slot.lock.unlink()
    if folders:
        with contextlib.suppress(OSError):
            slot.root.rmdir()
