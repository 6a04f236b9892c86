"""What modalities ask and say beside images: storage commitment (PS3.4 J) and performed procedure steps (PS3.4 F.7).

Here, in the listener, a request is only looked at as far as its answer needs, and kept;
dicom_listener.indexing.n_service_events reads it later, where nobody waits.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from pydicom.uid import generate_uid

from dicom_listener.dicom import data_sets
from dicom_listener.dicom.statuses import (
    DuplicateInstance,
    InvalidAttribute,
    MissingAttribute,
    NoLongerUpdatable,
    NoSuchAction,
    NoSuchInstance,
    SOPClassNotSupported,
)
from dicom_listener.dicom.uids import (
    MODALITY_PERFORMED_PROCEDURE_STEP,
    STORAGE_COMMITMENT_INSTANCE,
    STORAGE_COMMITMENT_PUSH_MODEL,
)
from dicom_listener.receive.c_store import Keeper
from dicom_listener.receive.dimse import (
    ACTION_TYPE_ID,
    AFFECTED_SOP_INSTANCE_UID,
    REQUESTED_SOP_CLASS_UID,
    REQUESTED_SOP_INSTANCE_UID,
)
from dicom_listener.spool import file_meta
from dicom_listener.spool.inbox import disk_errors

if TYPE_CHECKING:
    from pathlib import Path

    from dicom_listener.receive.dimse import Command
    from dicom_listener.receive.negotiation import Context
    from dicom_listener.receive.peers import Peer
    from dicom_listener.spool.inbox import Inbox

REQUEST_COMMITMENT = 1  # the action type, PS3.4 J.3.2
TRANSACTION_UID = 0x00081195
REFERENCED_SOP_SEQUENCE = 0x00081199
PERFORMED_PROCEDURE_STEP_STATUS = 0x00400252
SCHEDULED_STEP_ATTRIBUTES_SEQUENCE = 0x00400270
IN_PROGRESS, COMPLETED, DISCONTINUED = "IN PROGRESS", "COMPLETED", "DISCONTINUED"


class CommitmentRequest(Keeper):
    """Answers the N-ACTION of storage commitment: the request is kept; its report comes later."""

    operation = file_meta.N_ACTION
    wanted = frozenset((TRANSACTION_UID, REFERENCED_SOP_SEQUENCE))
    #: Some 30,000 instances.
    most_bytes = 4 * 2**20

    def announce(self, command: Command) -> tuple[str, str]:
        """The well-known instance that commitment is asked of."""
        if command.text(REQUESTED_SOP_INSTANCE_UID) != STORAGE_COMMITMENT_INSTANCE:
            raise NoSuchInstance("storage commitment is asked of its well-known instance")
        if command.number(ACTION_TYPE_ID, default=0) != REQUEST_COMMITMENT:
            raise NoSuchAction("the only action is to request storage commitment")
        if command.text(REQUESTED_SOP_CLASS_UID) != STORAGE_COMMITMENT_PUSH_MODEL:
            raise SOPClassNotSupported("the requested SOP class is not storage commitment")
        return STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_INSTANCE

    def check(self, reader: data_sets.Reader) -> None:
        """A transaction must have its UID, and be about something."""
        reader.finish()
        data_sets.parse_uid(reader.values.get(TRANSACTION_UID, b""), "Transaction UID")
        if REFERENCED_SOP_SEQUENCE not in reader.present:
            raise MissingAttribute("the request names no objects")


class StepStates:
    """The state of each procedure step, on disk: the listener must refuse what a step no longer allows.

    One small file a step, named by a digest of its UID and written after the request was kept. One that a crash loses
    costs a refusal that should have been one, no more: the database judges again.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __getitem__(self, sop_instance_uid: str) -> str | None:
        try:
            return self._path(sop_instance_uid).read_text()
        except FileNotFoundError:
            return None

    def __setitem__(self, sop_instance_uid: str, state: str) -> None:
        path = self._path(sop_instance_uid)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(state)
        fresh.replace(path)

    def _path(self, sop_instance_uid: str) -> Path:
        return self._directory / hashlib.sha256(sop_instance_uid.encode()).hexdigest()


class StepCreation(Keeper):
    """Answers the N-CREATE of a procedure step."""

    operation = file_meta.N_CREATE
    wanted = frozenset((PERFORMED_PROCEDURE_STEP_STATUS, SCHEDULED_STEP_ATTRIBUTES_SEQUENCE))
    #: A step with the references of some thousand images.
    most_bytes = 4 * 2**20

    def __init__(self, command: Command, context: Context, peer: Peer, inbox: Inbox, states: StepStates) -> None:
        self.states = states
        self.state = IN_PROGRESS
        super().__init__(command, context, peer, inbox)

    def announce(self, command: Command) -> tuple[str, str]:
        """The step's UID is the modality's; where it gives none, ours (PS3.7 10.1.5.1.4)."""
        uid = command.text(AFFECTED_SOP_INSTANCE_UID) or generate_uid()
        if self.states[data_sets.parse_uid(uid, "Affected SOP Instance UID")] is not None:
            raise DuplicateInstance("this procedure step exists")
        return MODALITY_PERFORMED_PROCEDURE_STEP, uid

    def check(self, reader: data_sets.Reader) -> None:
        """A step begins in progress (PS3.4 F.7.2.1.2), and says of which study."""
        reader.finish()
        if SCHEDULED_STEP_ATTRIBUTES_SEQUENCE not in reader.present:
            raise MissingAttribute("the procedure step names no study")
        if _status(reader) != IN_PROGRESS:
            raise InvalidAttribute("a procedure step is created IN PROGRESS")

    def kept(self) -> None:
        """Remember the step's state; raises OutOfResources."""
        with disk_errors():
            self.states[self.sop_instance_uid] = self.state


class StepUpdate(StepCreation):
    """Answers the N-SET of a procedure step."""

    operation = file_meta.N_SET

    def announce(self, command: Command) -> tuple[str, str]:
        """The step must be there and not have ended."""
        uid = data_sets.parse_uid(command.text(REQUESTED_SOP_INSTANCE_UID), "Requested SOP Instance UID")
        state = self.states[uid]
        if state is None:
            raise NoSuchInstance("this procedure step was never created")
        if state != IN_PROGRESS:
            raise NoLongerUpdatable("this procedure step has ended")
        return MODALITY_PERFORMED_PROCEDURE_STEP, uid

    def check(self, reader: data_sets.Reader) -> None:
        """A status, where one is given, must be one."""
        reader.finish()
        self.state = _status(reader) or IN_PROGRESS
        if self.state not in {IN_PROGRESS, COMPLETED, DISCONTINUED}:
            raise InvalidAttribute("the status is none of a procedure step's")


def _status(reader: data_sets.Reader) -> str:
    return reader.values.get(PERFORMED_PROCEDURE_STEP_STATUS, b"").decode("latin-1").strip("\0 ")
