"""Requests whose data set is kept in the inbox, C-STORE first of all (PS3.4 B)."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from db.studies.sop_classes import reportable
from dicom_listener.dicom import data_sets
from dicom_listener.dicom.statuses import SUCCESS, MissingUID, Refusal, SOPClassNotSupported, TooLarge
from dicom_listener.receive.dimse import AFFECTED_SOP_CLASS_UID, AFFECTED_SOP_INSTANCE_UID, PRIORITY
from dicom_listener.spool import file_meta
from dicom_listener.spool.file_meta import Reception

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from dicom_listener.receive.dimse import Command
    from dicom_listener.receive.negotiation import Context
    from dicom_listener.receive.peers import Peer
    from dicom_listener.spool.inbox import Arrival, Inbox


class Keeper:
    """Takes the data set of one request as it comes, and keeps it durably.

    The first cause of refusal decides the status; what still comes is read and thrown away, because the sender looks
    for the answer only when it has sent everything. Subclasses say what must be right.
    """

    operation = ""
    #: Top-level elements that `check` looks at.
    wanted: AbstractSet[int] = frozenset()
    most_bytes = 0

    def __init__(self, command: Command, context: Context, peer: Peer, inbox: Inbox) -> None:
        self.refusal: Refusal | None = None
        self.sop_class_uid = self.sop_instance_uid = ""
        self.bytes = 0
        self._arrival: Arrival | None = None
        self._reader = data_sets.reader(context.transfer_syntax, self.wanted)
        try:
            self._begin(command, context, peer, inbox)
        except Refusal as refusal:
            self._refuse(refusal)

    def announce(self, command: Command) -> tuple[str, str]:
        """SOP class and SOP instance that *command* is about; raises Refusal."""
        raise NotImplementedError

    def check(self, reader: data_sets.Reader) -> None:
        """Look at the complete data set; raises Refusal."""
        raise NotImplementedError

    def kept(self) -> None:
        """Note that the request was kept; raises Refusal."""

    def write(self, fragment: memoryview, *, last: bool) -> None:
        """Take the next bytes of the data set; the *last* must stay as they are until `finish`."""
        if self._arrival is None:
            return
        try:
            self.bytes += len(fragment)
            if self.bytes > self.most_bytes:
                raise TooLarge(f"the data set is larger than {self.most_bytes} bytes")
            self._arrival.write(fragment, last=last)
            self._reader.feed(fragment)
        except Refusal as refusal:
            self._refuse(refusal)

    def finish(self) -> int:
        """The status, after the last byte: success only when what was sent would survive a power cut."""
        if self._arrival is not None:
            try:
                self.check(self._reader)
                self._arrival.keep()
                self.kept()
            except Refusal as refusal:
                self._refuse(refusal)
        return SUCCESS if self.refusal is None else self.refusal.status

    def drop(self) -> None:
        """Forget what came, unless it was kept."""
        if self._arrival is not None:
            self._arrival.drop()
            self._arrival = None

    def _begin(self, command: Command, context: Context, peer: Peer, inbox: Inbox) -> None:
        self.sop_class_uid, self.sop_instance_uid = self.announce(command)
        if self.sop_class_uid != context.abstract_syntax:
            raise SOPClassNotSupported("the SOP class is not that of its presentation context")
        if not command.has_data_set:
            raise MissingUID("there is no data set")
        reception = Reception(
            operation=self.operation,
            association_id=peer.association_id,
            calling_ae_title=peer.calling_ae_title,
            called_ae_title=peer.called_ae_title,
            peer=peer.address,
            priority=command.number(PRIORITY, default=0),
            received_at=dt.datetime.now(dt.UTC),
        )
        self._arrival = inbox.begin(
            file_meta.encode(self.sop_class_uid, self.sop_instance_uid, context.transfer_syntax, reception)
        )

    def _refuse(self, refusal: Refusal) -> None:
        self.refusal = refusal
        self.drop()


class Store(Keeper):
    """Answers C-STORE: one cause, one status."""

    operation = file_meta.C_STORE
    wanted = data_sets.IDENTITY.keys()
    #: Whole slides and long runs reach some GB; a sender that never ends must not fill the disk.
    most_bytes = 32 * 2**30

    def announce(self, command: Command) -> tuple[str, str]:
        """The Affected SOP Class and Instance UIDs."""
        return (
            data_sets.parse_uid(command.text(AFFECTED_SOP_CLASS_UID), "Affected SOP Class UID"),
            data_sets.parse_uid(command.text(AFFECTED_SOP_INSTANCE_UID), "Affected SOP Instance UID"),
        )

    def check(self, reader: data_sets.Reader) -> None:
        """Raise Refusal where the object is not the one announced, or a cut image.

        A report on a cut image would speak of what is not there. Anything else is only kept, byte for byte as its
        sender has it: cut reports and plans exist, in archives that cannot repair them and would send them for ever.
        """
        if reportable(self.sop_class_uid):
            reader.finish()
        data_sets.check_identity(reader, self.sop_class_uid, self.sop_instance_uid)
