"""Serve one association, from the TCP connection to its end: one thread, one loop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from structlog.contextvars import bind_contextvars, bound_contextvars

from db.operations.listener_status import Kind
from dicom_listener.dicom.statuses import SUCCESS
from dicom_listener.receive import dimse, negotiation, upper_layer
from dicom_listener.receive.handlers import NullHandler
from dicom_listener.receive.peers import Peer
from dicom_listener.receive.upper_layer import Abort, ConnectionClosed, IdleTooLong

if TYPE_CHECKING:
    from dicom_listener.receive.dimse import Command
    from dicom_listener.receive.handlers import RequestHandler
    from dicom_listener.receive.negotiation import Context
    from dicom_listener.receive.services import Services
    from dicom_listener.receive.upper_layer import Connection

log = structlog.get_logger()

#: Seconds from the connection to the A-ASSOCIATE-RQ: ARTIM (PS3.8 9.1.5).
ARTIM_SECONDS = 10
#: Seconds between two PDUs of the peer; scanners keep an association open between two series.
IDLE_SECONDS = 120
#: Bytes received in one association: an archive migration stays far below; only a fault exceeds it.
MAX_ASSOCIATION_BYTES = 2**40
#: Refused requests of one association with a log line each: a sender that sends without end must not fill the log. The
#: line at the end of the association has all their statuses.
MAX_REFUSALS_LOGGED = 20
#: Source of an A-ABORT: the service provider (PS3.8 9.3.8).
SERVICE_PROVIDER = 2


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose data set, if it has one, is being received."""

    context_id: int
    command: Command
    handler: RequestHandler

    def ends_with(self, control: int) -> bool:
        """Return whether the last fragment of its kind with this *control* header ends the request."""
        return not (control & upper_layer.COMMAND and self.command.has_data_set)


class Association:
    """One association of a peer; *established* is False until it is accepted."""

    def __init__(self, connection: Connection, address: str, services: Services) -> None:
        self.peer = Peer(uuid.uuid4().hex, calling_ae_title="", called_ae_title="", address=address)
        self.established = False
        #: True if the end is logged for debugging only: a check of the port, or a connection without a request.
        self._is_check = True
        self._connection = connection
        self._services = services
        self._contexts: dict[int, Context] = {}
        #: Bytes of a P-DATA-TF that the peer accepts.
        self._max_pdu_bytes = 0
        self._received = 0
        self._command = bytearray()
        self._command_context = 0
        self._request: Request | None = None
        self._statuses: Counter[str] = Counter()
        self._refused = 0
        #: The context in which storage commitment was requested; the key of the result sent last, until its response.
        self._commitment_context: int | None = None
        self._sent_result: str | None = None
        self._results = 0
        #: True after an end at which the peer had no object left to send, as far as known.
        self._complete = False

    def shutdown(self) -> None:
        """End the connection from another thread."""
        self._connection.shutdown()

    def serve(self) -> None:
        """Serve the association until its end, which is logged; the peer cannot cause an exception."""
        peer = self.peer
        ids = {"association_id": peer.association_id, "address": peer.address}
        with bound_contextvars(**ids, calling_ae_title="", called_ae_title=""):
            try:
                self._serve()
            except IdleTooLong as idle:  # the peer kept it open after its last object
                self._complete = not self._in_message
                self._log("association.lost", str(idle))
            except ConnectionClosed as closed:
                self._log("association.lost", str(closed))
            except Abort as abort:
                self._is_check = False
                self._log("association.aborted", str(abort))
                with contextlib.suppress(ConnectionClosed):
                    self._connection.send(upper_layer.ABORT, bytes((0, 0, SERVICE_PROVIDER, abort.reason)))
            finally:
                try:
                    if self._request is not None:
                        self._request.handler.discard()
                finally:
                    self._services.release(self.peer, complete=self._complete)

    @property
    def _in_message(self) -> bool:
        return self._request is not None or bool(self._command)

    def _serve(self) -> None:
        rejection = self._negotiate()
        if rejection is not None:
            self._log("association.rejected", rejection)
        elif self._serve_requests():
            self._complete = not self._in_message
            self._log("association.released")
        else:
            self._log("association.aborted", "A-ABORT of the peer")

    def _negotiate(self) -> str | None:
        """Accept or reject the association; returns the cause of a rejection."""
        kind, content = self._connection.read(ARTIM_SECONDS, associated=False)
        if kind != upper_layer.ASSOCIATE_RQ:
            raise Abort(f"PDU type {kind} before an association", upper_layer.UNEXPECTED_PDU)
        proposal = negotiation.parse(content)
        titles = {"calling_ae_title": proposal.calling_ae_title, "called_ae_title": proposal.called_ae_title}
        self.peer = dataclasses.replace(self.peer, **titles)
        bind_contextvars(**titles)
        self._is_check = proposal.is_echo_only and proposal.calling_ae_title == negotiation.CHECK_AE_TITLE
        rejection = self._services.admit(self.peer, echo_only=proposal.is_echo_only)
        if rejection is not None:
            transient = rejection.result == negotiation.TRANSIENT
            if not self._is_check:
                self._services.count_refusal(Kind.LIMIT if transient else Kind.ASSOCIATION, self.peer, rejection.cause)
            self._connection.send(upper_layer.ASSOCIATE_RJ, rejection.encode())
            return rejection.cause
        self.established = True
        response, self._contexts = self._services.accept(proposal)
        if stored_only := negotiation.not_decoded(self._contexts.values()):
            log.info("association.syntaxes_not_decoded", transfer_syntaxes=stored_only)
        self._max_pdu_bytes = proposal.max_pdu_bytes
        self._connection.send(upper_layer.ASSOCIATE_AC, response)
        return None

    def _serve_requests(self) -> bool:
        """Serve requests until the association is released; returns False if the peer aborts it."""
        # A seat for C-ECHO is soon needed by the next one.
        idle_seconds = ARTIM_SECONDS if self._services.has_reserved_seat(self.peer) else IDLE_SECONDS
        while True:
            kind, content = self._connection.read(idle_seconds, on_idle=self._send_commitment_result)
            if kind == upper_layer.P_DATA_TF:
                self._count(len(content))
                for context_id, control, fragment in upper_layer.pdvs(content):
                    self._receive(context_id, control, fragment)
            elif kind == upper_layer.RELEASE_RQ:
                self._connection.send(upper_layer.RELEASE_RP, bytes(4))
                return True
            elif kind == upper_layer.ABORT:
                return False
            else:
                raise Abort(f"PDU type {kind} in an association", upper_layer.UNEXPECTED_PDU)

    def _count(self, received: int) -> None:
        self._received += received
        if self._received > MAX_ASSOCIATION_BYTES:
            raise Abort(f"more than {MAX_ASSOCIATION_BYTES} bytes in one association", upper_layer.NOT_SPECIFIED)

    def _receive(self, context_id: int, control: int, fragment: memoryview) -> None:
        if bool(control & upper_layer.COMMAND) == (self._request is not None):
            raise Abort("command and data set out of order", upper_layer.UNEXPECTED_PDU)
        if self._request is None:
            self._receive_command(context_id, control, fragment)
        elif context_id != self._request.context_id:
            raise Abort("data set and command in different contexts", upper_layer.INVALID_PARAMETER)
        else:
            self._request.handler.write(fragment, last=bool(control & upper_layer.LAST))
        if control & upper_layer.LAST and self._request is not None and self._request.ends_with(control):
            self._respond(self._request)

    def _receive_command(self, context_id: int, control: int, fragment: memoryview) -> None:
        if self._command and context_id != self._command_context:
            raise Abort("command in two contexts", upper_layer.INVALID_PARAMETER)
        self._command_context = context_id
        self._command += fragment
        if len(self._command) > dimse.MAX_COMMAND_BYTES:
            raise Abort(f"command set longer than {dimse.MAX_COMMAND_BYTES} bytes", upper_layer.INVALID_PARAMETER)
        if control & upper_layer.LAST:
            command, self._command = dimse.Command(self._command), bytearray()
            self._begin(context_id, command)

    def _begin(self, context_id: int, command: Command) -> None:
        context = self._contexts.get(context_id)
        if context is None:
            raise Abort("command in a context that was not accepted", upper_layer.INVALID_PARAMETER)
        if command.field == dimse.C_CANCEL_RQ:
            return  # every request is answered before the next one is read: there is nothing to cancel
        if self._answers_result(command):
            self._request = Request(context_id, command, NullHandler())
            return
        if command.field & dimse.RESPONSE:
            raise Abort(f"unexpected command {command.field:#06x}", upper_layer.UNEXPECTED_PDU)
        self._request = Request(context_id, command, self._services.handler(command, context, self.peer))

    def _respond(self, request: Request) -> None:
        if request.command.field == dimse.N_EVENT_REPORT_RSP:
            self._request = None
            self._record_response(request.command)
            return
        status = request.handler.finish()
        self._request = None
        self._statuses[f"{status:04X}"] += 1
        refusal = request.handler.refusal
        comment = "" if refusal is None else str(refusal)
        if refusal is not None:
            if self._refused < MAX_REFUSALS_LOGGED:
                log.warning("request.refused", status=f"{status:04X}", cause=comment)
            self._refused += 1
            kind = Kind.OBJECT if request.command.field == dimse.C_STORE_RQ else Kind.REQUEST
            self._services.count_refusal(kind, self.peer, comment)
        self._send(
            request.context_id, dimse.response(request.command, status, comment, request.handler.sop_instance_uid)
        )
        if request.command.field == dimse.N_ACTION_RQ and refusal is None:
            self._commitment_context = request.context_id

    def _send(self, context_id: int, encoded: bytes, *, command: bool = True) -> None:
        for pdv in dimse.fragments(context_id, encoded, command=command, maximum=self._max_pdu_bytes):
            self._connection.send(upper_layer.P_DATA_TF, pdv)

    def _send_commitment_result(self) -> None:
        """Send a storage commitment result that waits for this association, unless another message is in progress."""
        if self._commitment_context is None or self._request or self._command or self._sent_result:
            return
        found = self._services.commitment_outbox.find(self.peer.association_id)
        if found is None:
            return
        self._sent_result, result = found
        self._results += 1
        self._send(self._commitment_context, dimse.commitment_result(self._results, result.event_type))
        data_set = result.encode(self._contexts[self._commitment_context].transfer_syntax)
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
            self._services.commitment_outbox.record(self._sent_result, accepted=accepted)
        except OSError as error:  # the dispatcher sends the result again
            log.warning("commitment.response_not_recorded", error=error.strerror)
        self._sent_result = None

    def _log(self, event: str, cause: str | None = None) -> None:
        level = logging.INFO if not self._is_check and self._services.log_budget.allows() else logging.DEBUG
        log.log(level, event, **({} if cause is None else {"cause": cause}), statuses=dict(self._statuses))
