"""Handle requests of storage commitment (PS3.4 J) and modality performed procedure steps (PS3.4 F.7).

The listener checks only the elements that determine the status, and stores the request;
dicom_listener.indexing.n_service_events reads it later.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from typing import TYPE_CHECKING, ClassVar

from pydicom.uid import generate_uid

from dicom_listener.dicom import data_sets, uids
from dicom_listener.dicom.statuses import (
    DuplicateInstance,
    ExpandsTooFar,
    InvalidArgument,
    InvalidAttribute,
    InvalidInstance,
    MalformedHeader,
    MalformedUID,
    MissingAttribute,
    MissingUID,
    NoLongerUpdatable,
    NoSuchAction,
    NoSuchInstance,
    OutOfResources,
    ProcessingFailure,
    Refusal,
    ResourceLimitation,
    SOPClassNotSupported,
    TooComplex,
    TooLarge,
    Truncated,
)
from dicom_listener.receive import dimse
from dicom_listener.receive.c_store import SpoolingHandler
from dicom_listener.spool import file_meta
from dicom_listener.spool.durable import read_text
from dicom_listener.spool.writer import disk_errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dicom_listener.receive.dimse import Command
    from dicom_listener.receive.peers import Peer
    from dicom_listener.receive.upper_layer.negotiation import Context
    from dicom_listener.spool.inbox import Inbox

REQUEST_STORAGE_COMMITMENT = 1  # Action Type ID, PS3.4 J.3.2
TRANSACTION_UID = 0x00081195
REFERENCED_SOP_SEQUENCE = 0x00081199
PERFORMED_PROCEDURE_STEP_STATUS = 0x00400252
SCHEDULED_STEP_ATTRIBUTES_SEQUENCE = 0x00400270
EXISTS, ENDED = "the procedure step already exists", "the procedure step has ended"
IN_PROGRESS, COMPLETED, DISCONTINUED = "IN PROGRESS", "COMPLETED", "DISCONTINUED"
ENDS = frozenset((COMPLETED, DISCONTINUED))


class NServiceHandler(SpoolingHandler):
    """Base of the handlers of N-services, whose statuses are those of PS3.7 C."""

    #: Causes with a status of storage, and those that replace them.
    replaced: ClassVar[Mapping[type[Refusal], type[Refusal]]] = {
        OutOfResources: ResourceLimitation,
        TooLarge: ResourceLimitation,
        TooComplex: ResourceLimitation,
        Truncated: ProcessingFailure,
        ExpandsTooFar: ProcessingFailure,
        MalformedHeader: ProcessingFailure,
        MissingUID: MissingAttribute,
        MalformedUID: InvalidAttribute,
    }

    def refuse(self, refusal: Refusal) -> None:
        """Refuse the request, with a status of its service."""
        super().refuse(self.replaced.get(type(refusal), type(refusal))(str(refusal)))


class CommitmentRequestHandler(NServiceHandler):
    """Handler of the N-ACTION of storage commitment: stores the request; the result follows later."""

    operation = file_meta.N_ACTION
    wanted = frozenset((TRANSACTION_UID, REFERENCED_SOP_SEQUENCE))
    #: About 30,000 references.
    max_bytes = 4 * 2**20
    #: An N-ACTION has arguments (PS3.7 10.1.4.1.10).
    replaced: ClassVar[Mapping[type[Refusal], type[Refusal]]] = {
        **NServiceHandler.replaced,
        MissingUID: InvalidArgument,
        MalformedUID: InvalidArgument,
    }

    def identify(self, command: Command) -> tuple[str, str]:
        """Return the well-known SOP instance of storage commitment."""
        if command.text(dimse.REQUESTED_SOP_INSTANCE_UID) != uids.STORAGE_COMMITMENT_INSTANCE:
            raise NoSuchInstance("not the well-known SOP instance of storage commitment")
        if command.number(dimse.ACTION_TYPE_ID, default=0) != REQUEST_STORAGE_COMMITMENT:
            raise NoSuchAction("unknown action: expected Request Storage Commitment (1)")
        if command.text(dimse.REQUESTED_SOP_CLASS_UID) != uids.STORAGE_COMMITMENT_PUSH_MODEL:
            raise SOPClassNotSupported("the requested SOP class is not storage commitment")
        return uids.STORAGE_COMMITMENT_PUSH_MODEL, uids.STORAGE_COMMITMENT_INSTANCE

    def check(self, reader: data_sets.Reader) -> None:
        """Raise Refusal if the Transaction UID or the references are missing."""
        reader.finish()
        data_sets.parse_uid(reader.values.get(TRANSACTION_UID, b""), "Transaction UID")
        if REFERENCED_SOP_SEQUENCE not in reader.present:
            raise InvalidArgument("the Referenced SOP Sequence is missing")


#: Suffix of the file of a step's end.
END = ".end"


class StepStates:
    """States of procedure steps on disk: the listener must refuse invalid transitions without the database.

    One small file for each step, named by a digest of its UID and written after the request is stored, and another one
    for its end. If a crash loses one, an invalid transition may be answered with success; the database ignores it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __getitem__(self, sop_instance_uid: str) -> str | None:
        path = self._path(sop_instance_uid)
        found = [_read(each) for each in (path.with_suffix(END), path)]
        # A crash can leave an empty file: only an end that is known refuses a request.
        ends = (state for state in found if state in ENDS)
        return next(ends, None if found == [None, None] else IN_PROGRESS)

    def update(self, sop_instance_uid: str, state: str) -> None:
        """Record the end of a step; raises NoLongerUpdatable if it has ended, also if another process was first.

        The first end stays: an update that began before it changes nothing.
        """
        if self[sop_instance_uid] in ENDS:
            raise NoLongerUpdatable(ENDED)
        if state not in ENDS:
            return
        fresh, end = self._write(sop_instance_uid, state), self._path(sop_instance_uid).with_suffix(END)
        try:
            os.link(fresh, end)
        except FileExistsError:
            if self[sop_instance_uid] in ENDS:
                raise NoLongerUpdatable(ENDED) from None
            fresh.replace(end)  # a crash has damaged it
        finally:
            fresh.unlink(missing_ok=True)

    def create(self, sop_instance_uid: str, state: str) -> None:
        """Record the state of a new step; raises DuplicateInstance if another association was first."""
        fresh = self._write(sop_instance_uid, state)
        try:
            os.link(fresh, self._path(sop_instance_uid))
        except FileExistsError:
            raise DuplicateInstance(EXISTS) from None
        finally:
            fresh.unlink()

    def _write(self, sop_instance_uid: str, state: str) -> Path:
        # A file of its own: processes of several hosts, and threads, may write the same state.
        fresh = self._path(sop_instance_uid).with_suffix(f".{uuid.uuid4().hex}")
        fresh.write_text(state)
        return fresh

    def _path(self, sop_instance_uid: str) -> Path:
        return self._directory / hashlib.sha256(sop_instance_uid.encode()).hexdigest()


def _read(path: Path) -> str | None:
    """Return the state in a file, empty if it is damaged; None if there is no file. Raises OSError."""
    try:
        return read_text(path)
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        return ""


def _instance(uid: str, name: str) -> str:
    """Return the SOP Instance UID of a command; raises InvalidInstance."""
    try:
        return data_sets.parse_uid(uid, name)
    except (MissingUID, MalformedUID) as refusal:
        raise InvalidInstance(str(refusal)) from None


class StepHandler(NServiceHandler):
    """Base of the handlers of procedure steps: the step's *state* is recorded once the request is durable."""

    #: A step with references to some thousand images.
    max_bytes = 4 * 2**20

    def __init__(self, command: Command, context: Context, peer: Peer, inbox: Inbox, states: StepStates) -> None:
        self.states = states
        self.state = IN_PROGRESS
        super().__init__(command, context, peer, inbox)

    def state_of(self, sop_instance_uid: str) -> str | None:
        """Return the state of a step; raises OutOfResources if the disk cannot read it."""
        with disk_errors():
            return self.states[sop_instance_uid]


class StepCreateHandler(StepHandler):
    """Handler of the N-CREATE of a procedure step."""

    operation = file_meta.N_CREATE
    wanted = frozenset((PERFORMED_PROCEDURE_STEP_STATUS, SCHEDULED_STEP_ATTRIBUTES_SEQUENCE))

    def identify(self, command: Command) -> tuple[str, str]:
        """Return the step's UID: the modality's, or a new one if it sends none (PS3.7 10.1.5.1.4)."""
        uid = command.text(dimse.AFFECTED_SOP_INSTANCE_UID) or generate_uid()
        if self.state_of(_instance(uid, "Affected SOP Instance UID")) is not None:
            raise DuplicateInstance(EXISTS)
        return uids.MODALITY_PERFORMED_PROCEDURE_STEP, uid

    def check(self, reader: data_sets.Reader) -> None:
        """Raise Refusal if the step has no study or is not IN PROGRESS (PS3.4 F.7.2.1.2)."""
        reader.finish()
        if SCHEDULED_STEP_ATTRIBUTES_SEQUENCE not in reader.present:
            raise MissingAttribute("the Scheduled Step Attributes Sequence is missing")
        if _status(reader) != IN_PROGRESS:
            raise InvalidAttribute("invalid Performed Procedure Step Status: expected IN PROGRESS")

    def on_stored(self) -> None:
        """Record the step; raises DuplicateInstance, OutOfResources."""
        with disk_errors():
            self.states.create(self.sop_instance_uid, self.state)


class StepSetHandler(StepHandler):
    """Handler of the N-SET of a procedure step."""

    operation = file_meta.N_SET
    wanted = frozenset((PERFORMED_PROCEDURE_STEP_STATUS,))
    #: Of an update without a data set; a missing attribute is a status of N-CREATE only (PS3.7 10.1.3.1.9).
    replaced: ClassVar[Mapping[type[Refusal], type[Refusal]]] = {
        **NServiceHandler.replaced,
        MissingUID: ProcessingFailure,
    }

    def identify(self, command: Command) -> tuple[str, str]:
        """Return the UID of a step in progress."""
        uid = _instance(command.text(dimse.REQUESTED_SOP_INSTANCE_UID), "Requested SOP Instance UID")
        state = self.state_of(uid)
        if state is None:
            raise NoSuchInstance("the procedure step does not exist")
        if state in ENDS:
            raise NoLongerUpdatable(ENDED)
        return uids.MODALITY_PERFORMED_PROCEDURE_STEP, uid

    def check(self, reader: data_sets.Reader) -> None:
        """Raise InvalidAttribute if a status is given and unknown, NoLongerUpdatable if the step has ended since."""
        reader.finish()
        self.state = _status(reader) or IN_PROGRESS
        if self.state not in {IN_PROGRESS, *ENDS}:
            raise InvalidAttribute("invalid Performed Procedure Step Status")
        if self.state_of(self.sop_instance_uid) in ENDS:
            raise NoLongerUpdatable(ENDED)

    def on_stored(self) -> None:
        """Record an end; raises NoLongerUpdatable, OutOfResources."""
        with disk_errors():
            self.states.update(self.sop_instance_uid, self.state)


def _status(reader: data_sets.Reader) -> str:
    return reader.values.get(PERFORMED_PROCEDURE_STEP_STATUS, b"").decode("latin-1").strip("\0 ")
