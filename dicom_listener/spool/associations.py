"""Marks of associations: files that pass on open and broken transfers from the listener to the dispatcher.

They survive a restart of either process, in the slot of the listener's process:

    associations/<id>      an open association that has sent objects
    broken_transfers/<id>  an association that ended without a release

A mark contains the study of the latest object and whether an object is being received; its modification time is that
of the latest bytes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from dicom_listener.spool.durable import read_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dicom_listener.spool.durable import Slot, Spool

log = structlog.get_logger()

RECEIVING = "receiving"
#: Begins the name of a mark that is being written.
UNFINISHED = "."


@dataclass(slots=True)
class Transfer:
    """Objects of one association: the study of the latest one, whether it is incomplete, the time of its last bytes."""

    association_id: str
    study_instance_uid: str = ""
    receiving: bool = False
    #: By the site's rules for its AE titles.
    urgent: bool = False
    active_at: float = field(default_factory=time.time)

    @property
    def silent_seconds(self) -> float:
        """Seconds since the latest bytes."""
        return time.time() - self.active_at


class AssociationMarks:
    """The marks of one slot."""

    def __init__(self, slot: Slot) -> None:
        self._open = slot.associations
        self._broken = slot.broken_transfers

    def write(self, transfer: Transfer) -> None:
        """Mark an association as open, or replace its mark; raises OSError."""
        unfinished = self._open / f"{UNFINISHED}{transfer.association_id}"
        unfinished.write_text(f"{transfer.study_instance_uid}\n{RECEIVING if transfer.receiving else ''}")
        os.utime(unfinished, (transfer.active_at, transfer.active_at))
        unfinished.rename(self._open / transfer.association_id)

    def remove(self, association_id: str) -> None:
        """Remove the mark: the association was released, and receives no more objects."""
        (self._open / association_id).unlink(missing_ok=True)

    def break_off(self, association_id: str) -> None:
        """Mark an open association as one that ended without a release."""
        with contextlib.suppress(FileNotFoundError):
            (self._open / association_id).rename(self._broken / association_id)

    def break_off_all(self) -> None:
        """Mark the associations of an earlier owner as ended: it stopped without serving them to their end."""
        for mark in _names(self._open):
            if mark.startswith(UNFINISHED):
                (self._open / mark).unlink()
            else:
                self.break_off(mark)

    def open(self) -> list[Transfer]:
        """Return the open associations that have sent objects."""
        return list(_read(self._open))

    def broken(self) -> list[Transfer]:
        """Return the associations that ended without a release and are not forgotten yet."""
        return list(_read(self._broken))

    def forget(self, association_id: str) -> None:
        """Remove the mark of an association that ended without a release."""
        (self._broken / association_id).unlink(missing_ok=True)


class SpoolMarks:
    """The marks of all slots, for the dispatcher."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def slot_of(self, association_id: str) -> Slot | None:
        """Return the slot of an association that is open and has sent objects; None if there is none."""
        marked = (slot for slot in self._spool.slots() if (slot.associations / association_id).exists())
        return next(marked, None)

    def open(self) -> list[Transfer]:
        """Return the open associations that have sent objects."""
        return [transfer for slot in self._spool.slots() for transfer in AssociationMarks(slot).open()]

    def broken(self) -> list[Transfer]:
        """Return the associations that ended without a release and are not forgotten yet."""
        return [transfer for slot in self._spool.slots() for transfer in AssociationMarks(slot).broken()]

    def forget(self, association_id: str) -> None:
        """Remove the mark of an association that ended without a release."""
        for slot in self._spool.slots():
            AssociationMarks(slot).forget(association_id)


def _read(directory: Path) -> Iterator[Transfer]:
    try:
        names = _names(directory)
    except OSError as error:
        _log_unreadable(directory, type(error).__name__)
        return
    for name in names:
        if name.startswith(UNFINISHED):
            continue
        try:
            study_instance_uid, _, state = read_text(directory / name).partition("\n")
            active_at = (directory / name).stat().st_mtime
        except FileNotFoundError:  # the listener has removed it meanwhile
            continue
        except (OSError, ValueError) as error:
            # One damaged mark must not stop the others. Its study settles after its quiet time, without that remark.
            _log_unreadable(directory / name, type(error).__name__)
            continue
        yield Transfer(name, study_instance_uid, state == RECEIVING, active_at=active_at)


@functools.lru_cache(maxsize=1000)
def _log_unreadable(mark: Path, error: str) -> None:
    """Log a mark, or a folder of marks, once: the dispatcher reads it every second."""
    log.error("association.mark_unreadable", mark=f"{mark.parent.name}/{mark.name}", error=error)


def _names(directory: Path) -> list[str]:
    """Return the names in *directory*; none if it was removed, as that of an empty slot is."""
    try:
        return [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []
