"""One association, from the TCP connection to its end: one thread, one loop, no polling."""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from dicom_listener.commitment.outbox import Shelf
from dicom_listener.dicom.statuses import SUCCESS
from dicom_listener.receive import dimse, negotiation
from dicom_listener.receive.peers import Peer
from dicom_listener.receive.upper_layer import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    ASSOCIATE_RQ,
    COMMAND,
    INVALID_PARAMETER,
    LAST,
    NOT_SPECIFIED,
    P_DATA_TF,
    RELEASE_RP,
    RELEASE_RQ,
    UNEXPECTED_PDU,
    Abort,
    PeerGone,
    pdvs,
)

if TYPE_CHECKING:
    from pathlib import Path

    from dicom_listener.commitment.outbox import Report
    from dicom_listener.dicom.statuses import Refusal
    from dicom_listener.receive.dimse import Command
    from dicom_listener.receive.negotiation import Context, Proposal, Rejection
    from dicom_listener.receive.upper_layer import Connection

log = structlog.get_logger()

#: Seconds for the A-ASSOCIATE-RQ to begin after the connection: ARTIM (PS3.8 9.1.5).
ARTIM_SECONDS = 10
#: Seconds an established association may be silent; scanners keep one open between two series.
IDLE_SECONDS = 120
#: Bytes in one association: a migration sends an archive's studies one by one; without end sends only a fault.
LARGEST_ASSOCIATION = 2**40
#: An A-ABORT by the service provider (PS3.8 9.3.8).
SERVICE_PROVIDER = 2


class Answerer(Protocol):
    """Takes the data set of one request, then answers it."""

    refusal: Refusal | None
    sop_instance_uid: str

    def write(self, fragment: memoryview, *, last: bool) -> None: ...  # noqa: D102
    def finish(self) -> int: ...  # noqa: D102
    def drop(self) -> None: ...  # noqa: D102


class Ignoring:
    """Takes a data set that nobody looks at."""

    refusal: Refusal | None = None
    sop_instance_uid = ""

    def write(self, fragment: memoryview, *, last: bool) -> None:
        """Throw it away."""

    def finish(self) -> int:
        """Success."""
        return SUCCESS

    def drop(self) -> None:
        """Nothing is held."""


class Services(Protocol):
    """What associations need of the listener."""

    def admit(self, peer: Peer) -> Rejection | None: ...  # noqa: D102
    def accept(self, proposal: Proposal) -> tuple[bytes, dict[int, Context]]: ...  # noqa: D102
    def begin(self, command: Command, context: Context, peer: Peer) -> Answerer: ...  # noqa: D102
    def refused(self, peer: Peer, why: str) -> None: ...  # noqa: D102
    def ended(self, peer: Peer) -> None: ...  # noqa: D102
    def report_for(self, peer: Peer) -> tuple[Path, Report] | None: ...  # noqa: D102


@dataclass(slots=True)
class Request:
    """A request whose data set, if it has one, is arriving."""

    context_id: int
    command: Command
    answerer: Answerer

    def is_complete(self, control: int) -> bool:
        """Whether nothing follows the last fragment of a kind, command or data set, that *control* says it is."""
        return not (control & COMMAND and self.command.has_data_set)


class Association:
    """Serves one connection."""

    def __init__(self, connection: Connection, address: str, services: Services) -> None:
        self._connection = connection
        self._services = services
        self._peer = Peer(uuid.uuid4().hex, calling_ae_title="", called_ae_title="", address=address)
        self._contexts: dict[int, Context] = {}
        self._peer_maximum = 0
        self._received = 0
        self._command = bytearray()
        self._command_context = 0
        self._request: Request | None = None
        self._answers: Counter[str] = Counter()
        #: The context in which storage commitment was asked for, and the report on its way to who asked.
        self._commitment_context: int | None = None
        self._reporting: Path | None = None
        self._reports = 0

    def serve(self) -> None:
        """Serve until the peer leaves; whatever the peer does ends in a log line, not in an exception."""
        try:
            how = self._serve_requests() if self._establish() else "rejected"
            self._log("association.ended", how)
        except PeerGone as gone:
            self._log("association.lost", str(gone))
        except Abort as abort:
            self._log("association.aborted", str(abort))
            with contextlib.suppress(PeerGone):
                self._connection.send(ABORT, bytes((0, 0, SERVICE_PROVIDER, abort.reason)))
        finally:
            try:
                if self._request is not None:
                    self._request.answerer.drop()
            finally:
                self._services.ended(self._peer)

    def _establish(self) -> bool:
        kind, content = self._connection.read(ARTIM_SECONDS, associated=False)
        if kind != ASSOCIATE_RQ:
            raise Abort(f"PDU type {kind} before an association", UNEXPECTED_PDU)
        proposal = negotiation.parse(content)
        self._peer = Peer(
            self._peer.association_id, proposal.calling_ae_title, proposal.called_ae_title, self._peer.address
        )
        rejection = self._services.admit(self._peer)
        if rejection is not None:
            self._services.refused(self._peer, rejection.why)
            self._answers[rejection.why] += 1
            self._connection.send(ASSOCIATE_RJ, rejection.encode())
            return False
        self._connection.associated = True
        answer, self._contexts = self._services.accept(proposal)
        self._peer_maximum = proposal.max_pdu_bytes
        self._connection.send(ASSOCIATE_AC, answer)
        return True

    def _serve_requests(self) -> str:
        while True:
            kind, content = self._connection.read(IDLE_SECONDS)
            if kind == P_DATA_TF:
                self._count(len(content))
                for context_id, control, fragment in pdvs(content):
                    self._take(context_id, control, fragment)
            elif kind == RELEASE_RQ:
                self._connection.send(RELEASE_RP, bytes(4))
                return "released"
            elif kind == ABORT:
                return "aborted by the peer"
            else:
                raise Abort(f"PDU type {kind} in an association", UNEXPECTED_PDU)

    def _count(self, received: int) -> None:
        self._received += received
        if self._received > LARGEST_ASSOCIATION:
            raise Abort(f"more than {LARGEST_ASSOCIATION} bytes in one association", NOT_SPECIFIED)

    def _take(self, context_id: int, control: int, fragment: memoryview) -> None:
        if bool(control & COMMAND) == (self._request is not None):
            raise Abort("a command and a data set out of turn", UNEXPECTED_PDU)
        if self._request is None:
            self._take_command(context_id, control, fragment)
        elif context_id != self._request.context_id:
            raise Abort("a data set in another context than its command", INVALID_PARAMETER)
        else:
            self._request.answerer.write(fragment, last=bool(control & LAST))
        if control & LAST and self._request is not None and self._request.is_complete(control):
            self._answer(self._request)

    def _take_command(self, context_id: int, control: int, fragment: memoryview) -> None:
        if self._command and context_id != self._command_context:
            raise Abort("a command in two contexts", INVALID_PARAMETER)
        self._command_context = context_id
        self._command += fragment
        if len(self._command) > dimse.LONGEST_COMMAND:
            raise Abort("an endless command set", INVALID_PARAMETER)
        if not control & LAST:
            return
        command, self._command = dimse.Command(self._command), bytearray()
        context = self._contexts.get(context_id)
        if context is None:
            raise Abort("a command in a context that was not accepted", INVALID_PARAMETER)
        if command.field == dimse.C_CANCEL_RQ:
            return  # every request is answered before the next one is read: there is nothing to cancel
        if command.field == dimse.N_EVENT_REPORT_RSP and self._answers_report(command):
            self._request = Request(context_id, command, Ignoring())
            return
        if command.field & dimse.RESPONSE:
            raise Abort(f"unexpected command {command.field:#06x}", UNEXPECTED_PDU)
        self._request = Request(context_id, command, self._services.begin(command, context, self._peer))

    def _answer(self, request: Request) -> None:
        if request.command.field == dimse.N_EVENT_REPORT_RSP:
            self._request = None
            self._end_report(request.command)
            return
        status = request.answerer.finish()
        self._request = None
        refusal = request.answerer.refusal
        if refusal is not None:
            log.warning("request.refused", **self._ids(), status=f"{status:04X}", why=str(refusal))
            self._services.refused(self._peer, str(refusal))
        self._answers[f"{status:04X}"] += 1
        comment = "" if refusal is None else str(refusal)
        self._send(
            request.context_id, dimse.response(request.command, status, comment, request.answerer.sop_instance_uid)
        )
        if request.command.field == dimse.N_ACTION_RQ and refusal is None:
            self._commitment_context = request.context_id
            self._connection.when_idle = self._report

    def _send(self, context_id: int, encoded: bytes, *, command: bool = True) -> None:
        for pdv in dimse.fragments(context_id, encoded, command=command, maximum=self._peer_maximum):
            self._connection.send(P_DATA_TF, pdv)

    def _report(self) -> None:
        """Send a commitment report that waits for this association, when nothing else is going on in it."""
        if self._commitment_context is None or self._request or self._command or self._reporting:
            return
        found = self._services.report_for(self._peer)
        if found is None:
            return
        self._reporting, report = found
        self._reports += 1
        self._send(self._commitment_context, report.command(self._reports))
        data_set = report.encoded[self._contexts[self._commitment_context].transfer_syntax]
        self._send(self._commitment_context, data_set, command=False)

    def _answers_report(self, answer: Command) -> bool:
        return self._reporting is not None and answer.number(dimse.MESSAGE_ID_BEING_RESPONDED_TO) == self._reports

    def _end_report(self, answer: Command) -> None:
        # Gone, where the dispatcher has given up waiting.
        with contextlib.suppress(OSError):
            if self._reporting is not None:
                Shelf.take(self._reporting, accepted=answer.number(dimse.STATUS) == SUCCESS)
        self._reporting = None

    def _log(self, event: str, how: str) -> None:
        log.info(event, **self._ids(), how=how, answers=dict(self._answers))

    def _ids(self) -> dict[str, str]:
        return {
            "association": self._peer.association_id,
            "calling": self._peer.calling_ae_title,
            "called": self._peer.called_ae_title,
            "address": self._peer.address,
        }
