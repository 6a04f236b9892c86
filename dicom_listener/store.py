"""One C-STORE: from its command to the status that answers it (PS3.4 B)."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from db.reportable import reportable
from dicom_listener import data_sets, file_meta
from dicom_listener.dimse import AFFECTED_SOP_CLASS_UID, AFFECTED_SOP_INSTANCE_UID, PRIORITY
from dicom_listener.file_meta import Reception
from dicom_listener.refusals import SUCCESS, MissingUID, Refusal, SOPClassNotSupported, TooLarge

if TYPE_CHECKING:
    from dicom_listener.dimse import Command
    from dicom_listener.inbox import Arrival, Inbox
    from dicom_listener.negotiation import Context
    from dicom_listener.peers import Peer

#: Bytes of one object: whole slides and long runs reach some GB; a sender that never ends must not fill the disk.
LARGEST_OBJECT = 32 * 2**30


class Store:
    """Takes the data set of one C-STORE as it comes.

    The first cause of refusal decides the status; what still comes is read and thrown away, because the sender looks
    for the answer only when it has sent everything.
    """

    def __init__(self, command: Command, context: Context, peer: Peer, inbox: Inbox) -> None:
        self.refusal: Refusal | None = None
        self.bytes = 0
        self._arrival: Arrival | None = None
        self._reader = data_sets.reader(context.transfer_syntax, data_sets.IDENTITY.keys())
        try:
            self._begin(command, context, peer, inbox)
        except Refusal as refusal:
            self._refuse(refusal)

    def write(self, fragment: memoryview) -> None:
        """Take the next bytes of the data set."""
        if self._arrival is None:
            return
        try:
            self.bytes += len(fragment)
            if self.bytes > LARGEST_OBJECT:
                raise TooLarge(f"the object is larger than {LARGEST_OBJECT} bytes")
            self._arrival.write(fragment)
            self._reader.feed(fragment)
        except Refusal as refusal:
            self._refuse(refusal)

    def finish(self) -> int:
        """The status, after the last byte: success only when the object would survive a power cut."""
        if self._arrival is not None:
            try:
                self._check_completeness()
                data_sets.check_identity(self._reader.values, self._sop_class_uid, self._sop_instance_uid)
                self._arrival.keep()
            except Refusal as refusal:
                self._refuse(refusal)
        return SUCCESS if self.refusal is None else self.refusal.status

    def drop(self) -> None:
        """Forget the object, unless it was kept."""
        if self._arrival is not None:
            self._arrival.drop()
            self._arrival = None

    def _check_completeness(self) -> None:
        """Raise Truncated for a cut image: a report on it would speak of what is not there.

        Anything else is only kept, byte for byte as its sender has it: cut reports and plans exist, in archives that
        cannot repair them and repeat a refused transfer for ever.
        """
        if reportable(self._sop_class_uid):
            self._reader.finish()

    def _begin(self, command: Command, context: Context, peer: Peer, inbox: Inbox) -> None:
        self._sop_class_uid = data_sets.parse_uid(command.text(AFFECTED_SOP_CLASS_UID), "Affected SOP Class UID")
        self._sop_instance_uid = data_sets.parse_uid(
            command.text(AFFECTED_SOP_INSTANCE_UID), "Affected SOP Instance UID"
        )
        if self._sop_class_uid != context.abstract_syntax:
            raise SOPClassNotSupported("the SOP class is not that of its presentation context")
        if not command.has_data_set:
            raise MissingUID("there is no data set")
        reception = Reception(
            association_id=peer.association_id,
            calling_ae_title=peer.calling_ae_title,
            called_ae_title=peer.called_ae_title,
            peer=peer.address,
            priority=command.number(PRIORITY, default=0),
            received_at=dt.datetime.now(dt.UTC),
        )
        self._arrival = inbox.begin(
            file_meta.encode(self._sop_class_uid, self._sop_instance_uid, context.transfer_syntax, reception)
        )

    def _refuse(self, refusal: Refusal) -> None:
        self.refusal = refusal
        self.drop()
