"""Keep the marks of a listener's open associations up to date."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING

import structlog

from dicom_listener.spool.associations import Transfer

if TYPE_CHECKING:
    from dicom_listener.spool.associations import AssociationMarks

log = structlog.get_logger()

#: Seconds between two updates of the marks: a small part of any quiet time. Objects themselves cost no update.
UPDATE_SECONDS = 0.5


class OpenTransfers:
    """Transfers of the open associations; a thread writes their changes to the marks."""

    def __init__(self, marks: AssociationMarks) -> None:
        self._marks = marks
        self._open: dict[str, Transfer] = {}
        #: As written last.
        self._written: dict[str, Transfer] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dicom-transfers", daemon=True)

    def start(self) -> None:
        """Start to update the marks."""
        self._thread.start()

    def close(self) -> None:
        """Stop updating; no effect before `start`."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def of(self, association_id: str, *, urgent: bool = False) -> Transfer:
        """Return the transfer of an association; the first call marks the association as open."""
        transfer = self._open.get(association_id)
        if transfer is None:
            transfer = self._open[association_id] = Transfer(association_id, urgent=urgent)
            self._write(transfer)
        return transfer

    def end(self, association_id: str, *, complete: bool) -> None:
        """Remove the mark of an association, or keep it as a broken transfer unless *complete*."""
        with self._lock:
            transfer = self._open.pop(association_id, None)
            self._written.pop(association_id, None)
            if transfer is None:
                return
            try:
                if complete or not transfer.study_instance_uid:
                    self._marks.remove(association_id)
                else:
                    self._marks.write(transfer)
                    self._marks.break_off(association_id)
            except OSError as error:  # its studies do not wait for an association without activity
                log.warning("association.mark_not_removed", error=error.strerror)

    def update(self) -> None:
        """Write the marks that have changed."""
        for transfer in list(self._open.values()):
            if self._written.get(transfer.association_id) != transfer:
                self._write(transfer)

    def _write(self, transfer: Transfer) -> None:
        with self._lock:
            if transfer.association_id not in self._open:  # it has ended meanwhile
                return
            written = dataclasses.replace(transfer)
            try:
                self._marks.write(written)
            except OSError:  # a disk that cannot store an empty file refuses the object itself, with the right status
                return
            self._written[transfer.association_id] = written

    def _run(self) -> None:
        while not self._closed.wait(UPDATE_SECONDS):
            self.update()
