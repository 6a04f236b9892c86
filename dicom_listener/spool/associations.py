"""Marks of associations: files that pass on open and broken transfers from the listener to the dispatcher.

They survive a restart of either process:

    spool/associations/<id>      an open association that has sent objects
    spool/broken_transfers/<id>  an association that ended without a release

A mark contains the study of the latest object and whether an object is being received; its modification time is that
of the latest bytes.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dicom_listener.spool.durable import Spool

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
    """The marks of one spool."""

    def __init__(self, spool: Spool) -> None:
        self._open = spool.associations
        self._broken = spool.broken_transfers

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
        """Mark the associations of an earlier listener as ended: it stopped without serving them to their end."""
        for mark in self._open.iterdir():
            if mark.name.startswith(UNFINISHED):
                mark.unlink()
            else:
                self.break_off(mark.name)

    def is_open(self, association_id: str) -> bool:
        """Return whether this association is open and has sent objects."""
        return (self._open / association_id).exists()

    def open(self) -> list[Transfer]:
        """Return the open associations that have sent objects."""
        return list(_read(self._open))

    def broken(self) -> list[Transfer]:
        """Return the associations that ended without a release and are not forgotten yet."""
        return list(_read(self._broken))

    def forget(self, association_id: str) -> None:
        """Remove the mark of an association that ended without a release."""
        (self._broken / association_id).unlink(missing_ok=True)


def _read(directory: Path) -> Iterator[Transfer]:
    for mark in directory.iterdir():
        # The listener may remove it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if not mark.name.startswith(UNFINISHED):
                study_instance_uid, _, state = mark.read_text().partition("\n")
                yield Transfer(mark.name, study_instance_uid, state == RECEIVING, active_at=mark.stat().st_mtime)
