"""Serve the DIMSE messages of one association: one loop, in the thread that reads them (PS3.7 6.3)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from db.operations.listener_status import Kind
from dicom_listener.dicom.statuses import SUCCESS
from dicom_listener.receive import dimse, pdus
from dicom_listener.receive.handlers import NullHandler
from dicom_listener.receive.pdus import Abort

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicom_listener.receive.dimse import Command
    from dicom_listener.receive.handlers import RequestHandler
    from dicom_listener.receive.upper_layer.association import Association
    from dicom_listener.receive.upper_layer.negotiation import Context

log = structlog.get_logger()

#: Bytes received in one association: an archive migration stays far below; only a fault exceeds it.
MAX_ASSOCIATION_BYTES = 2**40
#: Refused requests of one association with a log line each: a sender that sends without end must not fill the log. The
#: line at the end of the association has all their statuses.
MAX_REFUSALS_LOGGED = 20


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose data set, if it has one, is being received."""

    context_id: int
    command: Command
    handler: RequestHandler

    def ends_with(self, control: int) -> bool:
        """Return whether the last fragment of its kind with this *control* header ends the request."""
        return not (control & pdus.COMMAND and self.command.has_data_set)


@dataclass
class Messages:
    """Messages of an association, whose peer accepts P-DATA-TF PDUs of *max_pdu_bytes*; 0 is no limit."""

    association: Association
    #: The accepted ones.
    contexts: Mapping[int, Context] = field(default_factory=dict)
    max_pdu_bytes: int = 0
    #: Responses by their status.
    statuses: Counter[str] = field(default_factory=Counter)
    _received: int = 0
    _command: bytearray = field(default_factory=bytearray)
    _command_context: int = 0
    _request: Request | None = None
    _refused: int = 0
    #: The context in which storage commitment was requested; the key of the result sent last, until its response.
    _commitment_context: int | None = None
    _sent_result: str | None = None
    _results: int = 0

    @property
    def in_progress(self) -> bool:
        """True while a message is incomplete."""
        return self._request is not None or bool(self._command)

    def discard(self) -> None:
        """Discard an incomplete request."""
        if self._request is not None:
            self._request.handler.discard()

    def receive(self, content: memoryview) -> None:
        """Serve the content of a P-DATA-TF; raises Abort or ConnectionClosed."""
        self._received += len(content)
        if self._received > MAX_ASSOCIATION_BYTES:
            raise Abort(f"more than {MAX_ASSOCIATION_BYTES} bytes in one association", pdus.NOT_SPECIFIED)
        for context_id, control, fragment in pdus.pdvs(content):
            self._receive(context_id, control, fragment)

    def _receive(self, context_id: int, control: int, fragment: memoryview) -> None:
        if bool(control & pdus.COMMAND) == (self._request is not None):
            raise Abort("command and data set out of order", pdus.UNEXPECTED_PDU)
        if self._request is None:
            self._receive_command(context_id, control, fragment)
        elif context_id != self._request.context_id:
            raise Abort("data set and command in different contexts", pdus.INVALID_PARAMETER)
        else:
            self._request.handler.write(fragment, last=bool(control & pdus.LAST))
        if control & pdus.LAST and self._request is not None and self._request.ends_with(control):
            self._end(self._request)

    def _receive_command(self, context_id: int, control: int, fragment: memoryview) -> None:
        if self._command and context_id != self._command_context:
            raise Abort("command in two contexts", pdus.INVALID_PARAMETER)
        self._command_context = context_id
        self._command += fragment
        if len(self._command) > dimse.MAX_COMMAND_BYTES:
            raise Abort(f"command set longer than {dimse.MAX_COMMAND_BYTES} bytes", pdus.INVALID_PARAMETER)
        if control & pdus.LAST:
            command, self._command = dimse.Command(self._command), bytearray()
            self._begin(context_id, command)

    def _begin(self, context_id: int, command: Command) -> None:
        context = self.contexts.get(context_id)
        if context is None:
            raise Abort("command in a context that was not accepted", pdus.INVALID_PARAMETER)
        if command.field == dimse.C_CANCEL_RQ:
            return  # every request is answered before the next one is read: there is nothing to cancel
        handler: RequestHandler
        if self._answers_result(command):
            handler = NullHandler()
        elif command.field & dimse.RESPONSE:
            raise Abort(f"unexpected command {command.field:#06x}", pdus.UNEXPECTED_PDU)
        else:
            handler = self.association.services.handler(command, context, self.association.peer)
        self._request = Request(context_id, command, handler)

    def _end(self, request: Request) -> None:
        if request.command.field == dimse.N_EVENT_REPORT_RSP:
            self._record_response(request.command)
        else:
            self._respond(request)
        self._request = None

    def _respond(self, request: Request) -> None:
        status, refusal = self.association.finish(request), request.handler.refusal
        self.statuses[f"{status:04X}"] += 1
        if refusal is not None:
            self._count_refusal(request.command, f"{status:04X}", str(refusal))
        comment = "" if refusal is None else str(refusal)
        answer = dimse.response(request.command, status, comment, request.handler.sop_instance_uid)
        self._send(request.context_id, answer)
        if request.command.field == dimse.N_ACTION_RQ and refusal is None:
            self._commitment_context = request.context_id

    def _count_refusal(self, command: Command, status: str, cause: str) -> None:
        if self._refused < MAX_REFUSALS_LOGGED:
            log.warning("request.refused", status=status, cause=cause)
        self._refused += 1
        kind = Kind.OBJECT if command.field == dimse.C_STORE_RQ else Kind.REQUEST
        self.association.services.count_refusal(kind, self.association.peer, cause)

    def _send(self, context_id: int, encoded: bytes, *, command: bool = True) -> None:
        for pdv in dimse.fragments(context_id, encoded, command=command, maximum=self.max_pdu_bytes):
            self.association.wire.write(pdus.encode(pdus.P_DATA_TF, pdv))

    def send_commitment_result(self) -> None:
        """Send a storage commitment result that waits for this association, unless another message is in progress."""
        if self._commitment_context is None or self._request or self._command or self._sent_result:
            return
        found = self.association.services.commitment_outbox.find(self.association.peer.association_id)
        if found is None:
            return
        self._sent_result, result = found
        self._results += 1
        self._send(self._commitment_context, dimse.commitment_result(self._results, result.event_type))
        data_set = result.encode(self.contexts[self._commitment_context].transfer_syntax)
        self._send(self._commitment_context, data_set, command=False)

    def _answers_result(self, command: Command) -> bool:
        return (
            self._sent_result is not None
            and command.field == dimse.N_EVENT_REPORT_RSP
            and command.number(dimse.MESSAGE_ID_BEING_RESPONDED_TO) == self._results
        )

    def _record_response(self, response: Command) -> None:
        if self._sent_result is None:
            return
        accepted = response.number(dimse.STATUS) == SUCCESS
        try:
            self.association.services.commitment_outbox.record(self._sent_result, accepted=accepted)
        except OSError as error:  # the dispatcher sends the result again
            log.warning("commitment.response_not_recorded", error=error.strerror)
        self._sent_result = None
