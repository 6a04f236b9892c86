"""Handle requests by writing their data set to the spool: base of these handlers, and C-STORE (PS3.4 B)."""

from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING, NamedTuple

from db.studies.priority import is_urgent
from db.studies.settling import study_key
from db.studies.sop_classes import is_reportable
from dicom_listener.dicom import data_sets
from dicom_listener.dicom.statuses import SUCCESS, MissingUID, OutOfResources, Refusal, SOPClassNotSupported, TooLarge
from dicom_listener.receive.dimse import AFFECTED_SOP_CLASS_UID, AFFECTED_SOP_INSTANCE_UID, PRIORITY
from dicom_listener.receive.intake import marks
from dicom_listener.spool import file_meta
from dicom_listener.spool.file_meta import Reception
from dicom_listener.spool.object_tag import HIGH, REQUESTED_PROCEDURE_PRIORITY
from dicom_listener.spool.waiting import tag

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from dicom_listener.receive.dimse import Command
    from dicom_listener.receive.intake.marks import Intake
    from dicom_listener.receive.intake.quotas import Quotas
    from dicom_listener.receive.peers import KnownPeer, Peer
    from dicom_listener.receive.upper_layer.negotiation import Context
    from dicom_listener.spool.associations import Transfer
    from dicom_listener.spool.inbox import Inbox
    from dicom_listener.spool.writer import SpoolWriter


class SpoolingHandler:
    """Write the data set of one request to the inbox while it is received, and make it durable.

    The first cause of refusal determines the status; the rest of the data set is discarded, because a sender reads the
    response only after its last byte. Subclasses define the checks.
    """

    operation = ""
    #: Top-level elements for `check`.
    wanted: AbstractSet[int] = frozenset()
    max_bytes = 0

    def __init__(self, command: Command, context: Context, peer: Peer, inbox: Inbox) -> None:
        self.refusal: Refusal | None = None
        self.sop_class_uid = self.sop_instance_uid = ""
        self.bytes = 0
        self._writer: SpoolWriter | None = None
        self._reader = data_sets.reader(context.transfer_syntax, self.wanted)
        try:
            self._begin(command, context, peer, inbox)
        except Refusal as refusal:
            self.refuse(refusal)

    def identify(self, command: Command) -> tuple[str, str]:
        """Return SOP class and SOP instance UID of the request; raises Refusal."""
        raise NotImplementedError

    def check(self, reader: data_sets.Reader) -> None:
        """Check the complete data set; raises Refusal."""
        raise NotImplementedError

    def tag(self, reader: data_sets.Reader) -> str:
        """Return the tag of the complete data set in the name of its file."""
        del reader
        return ""

    def on_stored(self) -> None:
        """Act on the durable request; raises Refusal."""

    def write(self, fragment: memoryview, *, last: bool) -> None:
        """Write the next bytes of the data set; the *last* must stay unchanged until `finish`."""
        if self._writer is None:
            return
        try:
            self.bytes += len(fragment)
            if self.bytes > self.max_bytes:
                raise TooLarge(f"data set larger than {self.max_bytes} bytes")
            self._writer.write(fragment, last=last)
            self._reader.feed(fragment)
        except Refusal as refusal:
            self.refuse(refusal)

    def finish(self) -> int:
        """Return the status, after the last byte: success only if the data set survives a power cut."""
        if self._writer is not None:
            try:
                self.check(self._reader)
                self._writer.commit(self.tag(self._reader))
                self.on_stored()
            except Refusal as refusal:
                self.refuse(refusal)
        return SUCCESS if self.refusal is None else self.refusal.status

    def discard(self) -> None:
        """Remove the data set, unless it is durable."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None

    def _begin(self, command: Command, context: Context, peer: Peer, inbox: Inbox) -> None:
        self.sop_class_uid, self.sop_instance_uid = self.identify(command)
        if self.sop_class_uid != context.abstract_syntax:
            raise SOPClassNotSupported("SOP class differs from its presentation context")
        if not command.has_data_set:
            raise MissingUID("no data set")
        reception = Reception(
            operation=self.operation,
            association_id=peer.association_id,
            calling_ae_title=peer.calling_ae_title,
            called_ae_title=peer.called_ae_title,
            peer=peer.address,
            priority=command.number(PRIORITY, default=0),
            received_at=dt.datetime.now(dt.UTC),
        )
        self._writer = inbox.begin(
            file_meta.encode(self.sop_class_uid, self.sop_instance_uid, context.transfer_syntax, reception)
        )

    def refuse(self, refusal: Refusal) -> None:
        """Refuse the request, and remove its data set unless it is durable."""
        self.refusal = refusal
        self.discard()


#: Pixel Data and its kinds: the priority stands before them.
PIXELS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))


class Limits(NamedTuple):
    """Limits of what a sender may store now."""

    intake: Intake
    quotas: Quotas
    known: KnownPeer


class CStoreHandler(SpoolingHandler):
    """Handler of C-STORE."""

    operation = file_meta.C_STORE
    wanted = data_sets.IDENTITY.keys() | {REQUESTED_PROCEDURE_PRIORITY}
    #: Whole-slide images and long cine runs reach some GB; an endless data set must not fill the disk.
    max_bytes = 32 * 2**30

    def __init__(
        self, command: Command, context: Context, peer: Peer, inbox: Inbox, transfer: Transfer, limits: Limits
    ) -> None:
        self._transfer = transfer
        self._peer, self._limits = peer, limits
        self._urgent = command.number(PRIORITY, default=0) == HIGH or transfer.urgent
        #: True while it is refused unless the data set shows it to be urgent.
        self._must_be_urgent = limits.intake.only_urgent and not self._urgent
        if self._must_be_urgent:
            self.wanted = self.wanted | PIXELS
        super().__init__(command, context, peer, inbox)

    def write(self, fragment: memoryview, *, last: bool) -> None:
        """Write the next bytes of the object, and note which study they belong to."""
        super().write(fragment, last=last)
        if self._must_be_urgent and self.refusal is None and PIXELS & self._reader.present:
            try:
                self._insist_on_urgency()
            except OutOfResources as refusal:
                self.refuse(refusal)
        transfer = self._transfer
        transfer.active_at = time.time()
        transfer.receiving = True
        study = self._reader.values.get(data_sets.STUDY_INSTANCE_UID)
        if study is not None:
            uid = study.decode("ascii", "replace").strip("\0 \n")
            transfer.study_instance_uid = uid[: data_sets.MAX_UID_CHARACTERS]

    def finish(self) -> int:
        """Return the status of the complete object."""
        self._transfer.receiving = False
        return super().finish()

    def on_stored(self) -> None:
        """Count the object for the quotas of its sender."""
        self._limits.quotas.count(self._peer, self.bytes)

    def _insist_on_urgency(self) -> None:
        """Raise OutOfResources if the object is routine and only urgent ones are received."""
        if self._must_be_urgent and not self._is_requested_urgently():
            raise marks.only_urgent()
        self._must_be_urgent = False

    def _is_requested_urgently(self) -> bool:
        requested = self._reader.values.get(REQUESTED_PROCEDURE_PRIORITY, b"")
        return is_urgent(requested.strip().upper().decode("latin-1"))

    def identify(self, command: Command) -> tuple[str, str]:
        """Return the Affected SOP Class and Instance UIDs; raises OutOfResources if a quota is used up."""
        self._limits.quotas.check(self._peer, self._limits.known)
        return (
            data_sets.parse_uid(command.text(AFFECTED_SOP_CLASS_UID), "Affected SOP Class UID"),
            data_sets.parse_uid(command.text(AFFECTED_SOP_INSTANCE_UID), "Affected SOP Instance UID"),
        )

    def check(self, reader: data_sets.Reader) -> None:
        """Raise Refusal if the object's UIDs differ from the command's, or it is a truncated image.

        A report on a truncated image would be wrong. Other truncated objects are stored unchanged: archives have such
        reports and plans, cannot repair them, and would send them again and again.
        """
        if is_reportable(self.sop_class_uid):
            reader.finish()
        data_sets.check_identity(reader, self.sop_class_uid, self.sop_instance_uid)
        self._insist_on_urgency()

    def tag(self, reader: data_sets.Reader) -> str:
        """Return study and urgency, so that the dispatcher need not read them from the object.

        The site's rules (PRELIM_PRIORITY_RULES) apply to the AE titles.
        """
        uid = data_sets.parse_uid(reader.values[data_sets.STUDY_INSTANCE_UID], "Study Instance UID")
        return tag(study_key(uid), urgent=self._urgent or self._is_requested_urgently())
