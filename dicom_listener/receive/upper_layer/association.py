"""Serve one association, from the TCP connection to its end: one thread, in which pynetdicom's state machine runs."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from typing import TYPE_CHECKING, Any, cast

import structlog
from pynetdicom import association, evt
from pynetdicom.pdu_primitives import A_ASSOCIATE, A_RELEASE
from pynetdicom.transport import AddressInformation
from structlog.contextvars import bind_contextvars

from db.logs import frames
from db.operations.listener_status import Kind
from dicom_listener.receive import dimse, pdus
from dicom_listener.receive.messages import Messages
from dicom_listener.receive.pdus import Abort, ConnectionClosed, IdleTooLong
from dicom_listener.receive.upper_layer import negotiation, request_items
from dicom_listener.receive.upper_layer.wire import Wire

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pynetdicom.presentation import PresentationContext

    from dicom_listener.receive.messages import Request
    from dicom_listener.receive.peers import Peer
    from dicom_listener.receive.upper_layer.acceptor import Server
    from dicom_listener.receive.upper_layer.negotiation import Rejection

log = structlog.get_logger()

#: Name of the threads that serve one connection each.
CONNECTION_THREAD = "dicom-association"
#: Seconds from the connection to the A-ASSOCIATE-RQ: ARTIM (PS3.8 9.1.5).
ARTIM_SECONDS = 10
#: Seconds between two PDUs of the peer; scanners keep an association open between two series.
IDLE_SECONDS = 120
#: Source of an A-ABORT: the service provider (PS3.8 9.3.8).
SERVICE_PROVIDER = 2
#: States of pynetdicom's state machine in which PDUs are read, and events that it is given (PS3.8 9.2).
AWAITING_REQUEST, ESTABLISHED = "Sta2", "Sta6"
CONNECTION_CLOSED, INVALID_PDU = "Evt17", "Evt19"
#: End without an indication.
MALFORMED_REQUEST = "association.aborted", "malformed A-ASSOCIATE-RQ, or an unknown version of the protocol"
#: Events that end the requests of these commands; their handlers are bound to the server.
EVENTS = {
    dimse.C_STORE_RQ: evt.EVT_C_STORE,
    dimse.C_ECHO_RQ: evt.EVT_C_ECHO,
    dimse.N_ACTION_RQ: evt.EVT_N_ACTION,
    dimse.N_CREATE_RQ: evt.EVT_N_CREATE,
    dimse.N_SET_RQ: evt.EVT_N_SET,
}


class Association(association.Association):
    """A connection and its association; its thread is started before, and waits for `connect`."""

    peer: Peer
    wire: Wire

    def __init__(self, server: Server) -> None:
        super().__init__(server.ae, "acceptor")
        self.server = server
        self.services = server.services
        self.messages = Messages(self)
        #: Event and cause of the end, the first one that is noted.
        self.end: tuple[str, str | None] | None = None
        #: A fault of the program in a message.
        self.fault: Exception | None = None
        #: True if the end is logged for debugging only: a check of the port, or a connection without a request.
        self.is_check = True
        #: True after an end at which the peer had no object left to send, as far as known.
        self.complete = False
        #: The proposed presentation contexts with their results.
        self.decided: list[PresentationContext] = []
        self.acceptor.maximum_length = self.ae.maximum_pdu_size
        self.acceptor.implementation_version_name = self.ae.implementation_version_name
        # There is no second thread to take indications from the queue.
        indications: Any = self.dul.to_user_queue
        indications.put = self.indicate
        # Until there is a connection, the loop asks this object whether a PDU is `ready`.
        self.dul.socket = cast("Any", self)
        self._connected = threading.Event()
        #: Called at the end of the connection, the last one first; each, even if another one fails.
        self._ends = contextlib.ExitStack()

    def connect(self, peer: Peer, connection: socket.socket) -> None:
        """Let the thread serve the connection of *peer*; after OSError or MemoryError, `cancel` must end it."""
        wire = Wire(self, connection)
        self.name, self.peer = CONNECTION_THREAD, peer
        self.wire = self.dul.socket = wire
        self._ends.callback(self.server.forget, peer)
        self._ends.callback(self.wire.release)
        self._ends.callback(lambda: self.services.end_transfer(peer, complete=self.complete))
        self._ends.callback(self.messages.discard)
        self._connected.set()

    def cancel(self) -> None:
        """End the thread, which waits for a connection."""
        self.dul.kill_dul()
        self._connected.set()

    @property
    def ready(self) -> bool:
        """Wait for the connection; there is no PDU before."""
        self._connected.wait()
        return False

    @property
    def accepted_contexts(self) -> list[PresentationContext]:
        """Presentation contexts that pynetdicom confirms."""
        return [context for context in self.decided if context.result == negotiation.ACCEPTANCE]

    @property
    def rejected_contexts(self) -> list[PresentationContext]:
        """Presentation contexts that pynetdicom rejects."""
        return [context for context in self.decided if context.result != negotiation.ACCEPTANCE]

    def bind(self, event: evt.EventType, handler: Callable[..., Any], args: list[Any] | None = None) -> None:
        """Bind nothing: `get_handlers` returns those of the server."""

    def get_handlers(self, event: evt.EventType) -> Any:
        """Return the handler of *event* that the server has; none of a notification, as pynetdicom's log every PDU."""
        return self.server.get_handlers(event) if isinstance(event, evt.InterventionEvent) else []

    def run_reactor(self) -> None:
        """Serve the connection until its end, which is logged."""
        try:
            with self._ends:
                self._run()
                if self.name == CONNECTION_THREAD:  # it has had a connection
                    self._log_end()
        # The boundary of the thread: a fault of the program is logged, and the other associations continue.
        # Its text could quote the data set.
        except Exception as error:  # noqa: BLE001
            level = logging.ERROR if self.services.log_budget.allows() else logging.DEBUG
            log.log(level, "association.failed", error=type(error).__name__, frames=frames(error))

    def serve(self) -> bool:
        """Serve messages until a PDU about the association itself is in the buffer; False if there is none to read."""
        state = self.dul.state_machine.current_state
        try:
            if state == AWAITING_REQUEST:
                return self._has_request()
            return state == ESTABLISHED and self._has_end()
        except ConnectionClosed as closed:
            # After its last object, the peer may have kept the association open.
            self.complete = isinstance(closed, IdleTooLong) and not self.messages.in_progress
            self.lose(closed)
        except Abort as abort:
            self._abort(abort)
            if state == AWAITING_REQUEST:  # no abort of the user is provided for in this state
                self.dul.event_queue.put(INVALID_PDU)
        # pynetdicom would log its text, which could quote the data set.
        except Exception as error:  # noqa: BLE001
            self.fault = error
            self._write_abort(pdus.NOT_SPECIFIED)
            self.dul.event_queue.put(CONNECTION_CLOSED)
        return False

    def lose(self, closed: ConnectionClosed) -> None:
        """End the association whose connection is closed."""
        self._note("association.lost", str(closed))
        self.dul.event_queue.put(CONNECTION_CLOSED)

    def indicate(self, primitive: Any) -> None:
        """Act on an indication of the state machine: a request, a release or an abort."""
        try:
            if isinstance(primitive, A_ASSOCIATE):
                self._admit(primitive)
            elif isinstance(primitive, A_RELEASE):
                self.complete = not self.messages.in_progress
                self._note("association.released")
                self.acse.send_release(is_response=True)
            else:
                self._note("association.aborted", "malformed PDU")
        except Abort as abort:
            self._abort(abort)

    def finish(self, request: Request) -> int:
        """End a request by its event; returns the status."""
        event = EVENTS.get(request.command.field)
        if event is None:
            return request.handler.finish()
        return cast("int", evt.trigger(self, event, {"request": request}))

    def _run(self) -> None:
        try:
            self.dul.run_reactor()
        # pynetdicom's decoder raises many types of exceptions for malformed bytes, also for those of an A-ABORT.
        except Exception:
            if self.requestor.primitive is None:
                self._write_abort(pdus.INVALID_PARAMETER)
            elif self.end is None:
                self._write_abort(pdus.NOT_SPECIFIED)
                raise
        if self.fault is not None:
            raise self.fault

    def _write_abort(self, reason: int) -> None:
        """Tell the peer of the end that the state machine does not send."""
        with contextlib.suppress(ConnectionClosed):
            self.wire.write(pdus.encode(pdus.ABORT, bytes((0, 0, SERVICE_PROVIDER, reason))))

    def _has_request(self) -> bool:
        ids = {"association_id": self.peer.association_id, "address": self.peer.address}
        bind_contextvars(**ids, calling_ae_title="", called_ae_title="")
        self.requestor.address_info = AddressInformation(self.peer.address, 0)
        self.is_check = False  # a failed handshake is logged
        if self.server.ssl_context is not None and self.wire.begins():
            self.wire.secure(self.server.ssl_context)
        self.is_check = True
        kind, length = self.wire.peek(ARTIM_SECONDS, associated=False)
        if kind != pdus.ASSOCIATE_RQ:
            raise Abort(f"PDU type {kind} before an association", pdus.UNEXPECTED_PDU)
        request_items.check(self.wire.view(length))
        self.wire.keep_version_1(length)
        return True

    def _has_end(self) -> bool:
        # A seat for C-ECHO is soon needed by the next one.
        idle_seconds = ARTIM_SECONDS if self.services.has_reserved_seat(self.peer) else IDLE_SECONDS
        while True:
            kind, length = self.wire.peek(idle_seconds, on_idle=self.messages.send_commitment_result)
            if kind == pdus.P_DATA_TF:
                self.messages.receive(self.wire.take(length))
            elif kind == pdus.RELEASE_RQ:
                return True
            elif kind == pdus.ABORT:
                self._note("association.aborted", "A-ABORT of the peer")
                return True
            else:
                raise Abort(f"PDU type {kind} in an association", pdus.UNEXPECTED_PDU)

    def _admit(self, request: A_ASSOCIATE) -> None:
        """Accept or reject the association."""
        self.requestor.primitive = request
        proposed = request.presentation_context_definition_list
        negotiation.check(proposed)
        titles = {
            "calling_ae_title": negotiation.title(request.calling_ae_title),
            "called_ae_title": negotiation.title(request.called_ae_title),
        }
        self.peer = dataclasses.replace(self.peer, **titles)
        bind_contextvars(**titles)
        echo_only = negotiation.is_echo_only(proposed)
        self.is_check = echo_only and self.peer.calling_ae_title == negotiation.CHECK_AE_TITLE
        stores = negotiation.stores(proposed, self.server.contexts)
        rejection = negotiation.reject_application(request.application_context_name)
        rejection = rejection or self.services.admit(self.peer, echo_only=echo_only, stores=stores)
        if rejection is None:
            self._accept(request)
        else:
            self._reject(rejection)

    def _reject(self, rejection: Rejection) -> None:
        if not self.is_check and rejection != negotiation.NOT_ANSWERED:
            kind = Kind.LIMIT if rejection.result == negotiation.TRANSIENT else Kind.ASSOCIATION
            # The alarm of a limit would name the settings of associations.
            kind = Kind.OBJECT if rejection == negotiation.ONLY_URGENT else kind
            self.services.count_refusal(kind, self.peer, rejection.cause)
        self._note("association.rejected", rejection.cause)
        self.acse.send_reject(rejection.result, rejection.source, rejection.reason)

    def _accept(self, request: A_ASSOCIATE) -> None:
        scu_roles = [sop_class for sop_class, role in self.requestor.role_selection.items() if role.scu_role]
        proposed = request.presentation_context_definition_list
        self.decided, roles = negotiation.decide(proposed, self.server.contexts, scu_roles)
        for role in roles:
            self.acceptor.add_negotiation_item(role)
        self.acse.send_accept()
        self.messages.contexts = negotiation.accepted(self.accepted_contexts)
        self.messages.max_pdu_bytes = int(request.maximum_length_received or 0)
        if stored_only := negotiation.not_decoded(self.messages.contexts.values()):
            log.info("association.syntaxes_not_decoded", transfer_syntaxes=stored_only)

    def _abort(self, abort: Abort) -> None:
        self.is_check = False
        self._note("association.aborted", str(abort))
        self.acse.send_ap_abort(abort.reason)

    def _note(self, event: str, cause: str | None = None) -> None:
        if self.end is None:
            self.end = event, cause

    def _log_end(self) -> None:
        is_check = self.is_check and self.end is not None
        event, cause = self.end or MALFORMED_REQUEST
        level = logging.INFO if not is_check and self.services.log_budget.allows() else logging.DEBUG
        log.log(level, event, **({} if cause is None else {"cause": cause}), statuses=dict(self.messages.statuses))
