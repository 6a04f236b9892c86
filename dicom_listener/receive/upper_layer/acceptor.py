"""Accept connections, and start an association for each, by pynetdicom's server."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
import uuid
from collections import deque
from socketserver import BaseServer
from typing import TYPE_CHECKING, Any, cast

import structlog
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from db.operations.listener_status import Kind
from dicom_listener.receive import tls
from dicom_listener.receive.peers import Peer
from dicom_listener.receive.upper_layer import negotiation
from dicom_listener.receive.upper_layer.association import EVENTS, Association
from dicom_listener.receive.upper_layer.wire import TICK_SECONDS
from dicom_listener.spool.file_meta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

if TYPE_CHECKING:
    from db.settings import Settings
    from dicom_listener.receive.services import Services

log = structlog.get_logger()

#: Also the type of attributes of that name.
Socket = socket.socket

#: Connections queued by the kernel: a modality's burst of associations.
BACKLOG = 128
#: Associations that wait for a connection: pynetdicom takes 2 ms to make one and to begin its loop.
PREPARED = 2


class Handler(RequestHandler):
    """Handler of one connection; the server passes its `Peer` for the address."""

    server: Server

    def handle(self) -> None:
        """Give the connection to an association that waits for one.

        Raises RuntimeError if no thread can be started, OSError or MemoryError if the connection cannot be served.
        """
        peer: Peer = self.client_address
        association = self.server.take_prepared()
        self.server.associations[peer.association_id] = association
        for oldest in self.server.services.seats.connect(peer.association_id, peer.address):
            self.server.end(oldest)
        try:
            association.connect(peer, self.request)
        except (OSError, MemoryError):
            association.cancel()
            self.server.forget(peer)
            raise


class Server(ThreadedAssociationServer):
    """Server of associations, each in a thread; it has no address before `take_address`."""

    socket: Socket

    def __init__(self, *args: Any, services: Services, **kwargs: Any) -> None:
        self.services = services
        self.stopping = threading.Event()
        #: By their ids, from the connection to its end.
        self.associations: dict[str, Association] = {}
        #: Started, without a connection.
        self._prepared: deque[Association] = deque()
        self._preparing = threading.Lock()
        super().__init__(*args, **kwargs)

    def use(self, context: tls.ServerContext | None) -> None:
        """Serve new connections with *context*, and pass on which certificate it has."""
        self.ssl_context = context
        self.services.certificate = None if context is None else context.loaded

    def serve(self, accepted: Socket, address: tuple[Any, ...], association_id: str | None = None) -> None:
        """Serve an accepted connection in a thread of its own, and return at once.

        *address* is that of the peer, as `accept` returns it. Raises RuntimeError if no thread can be started,
        OSError or MemoryError if the connection cannot be served; it is then not closed.
        """
        # An IPv6 socket names IPv4 peers ::ffff:10.1.2.3.
        peer = Peer(association_id or uuid.uuid4().hex, "", "", address[0].removeprefix("::ffff:"))
        self.finish_request(accepted, cast("Any", peer))

    def end(self, association_id: str) -> None:
        """End a pending connection, because a newer one takes its place; no effect after its end."""
        association = self.associations.get(association_id)
        if association is not None:
            self.services.count_refusal(Kind.LIMIT, association.peer, "limit of pending connections reached")
            with contextlib.suppress(OSError):
                association.wire.shutdown()

    def forget(self, peer: Peer) -> None:
        """Count a connection as ended."""
        self.services.seats.release(peer.association_id)
        del self.associations[peer.association_id]
        with contextlib.suppress(RuntimeError):  # no thread can be started: the next connection needs one anyway
            self.prepare()

    def prepare(self) -> None:
        """Keep PREPARED associations waiting for a connection; raises RuntimeError if no thread can be started."""
        with self._preparing:
            while len(self._prepared) < PREPARED and not self.stopping.is_set():
                self._prepared.append(self._start())

    def take_prepared(self) -> Association:
        """Return an association that waits for a connection; raises RuntimeError if no thread can be started."""
        try:
            return self._prepared.popleft()
        except IndexError:
            return self._start()

    def _start(self) -> Association:
        association = Association(self)
        association.start()
        return association

    def stop(self, seconds: float) -> int:
        """Let the associations end within *seconds*; returns the number of those that have not."""
        self.stopping.set()
        with self._preparing:
            while self._prepared:
                self._prepared.popleft().cancel()
        associations = list(self.associations.values())
        deadline = time.monotonic() + seconds
        for association in associations:
            association.join(max(deadline - time.monotonic(), 0))
        return sum(association.is_alive() for association in associations)

    def shutdown(self) -> None:
        """End `serve_forever`, which must be running in another thread, and close the address."""
        self.stopping.set()
        with contextlib.suppress(OSError):  # wakes `serve_forever`; not on every system
            self.socket.shutdown(socket.SHUT_RDWR)
        BaseServer.shutdown(self)
        self.server_close()

    def server_bind(self) -> None:
        """Do nothing at creation: `take_address` follows."""

    def server_activate(self) -> None:
        """Do nothing at creation: `listen` follows when the spool is open."""

    def take_address(self) -> None:
        """Bind the configured address; raises OSError if the port is in use."""
        super().server_bind()

    def listen(self) -> None:
        """Let peers connect to the address."""
        self.socket.listen(BACKLOG)

    def get_request(self) -> tuple[Socket, Any]:
        """Accept a connection; TLS starts in its own thread, so that a silent peer keeps no other waiting."""
        try:
            return self.socket.accept()
        except OSError as error:  # stopped, too many open files, or the peer has closed
            if not self.stopping.is_set():
                log.warning("listener.accept_failed", error=error.strerror)
                time.sleep(TICK_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection of `serve_forever`."""
        self.serve(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a connection could not be served: no thread can be started, or no memory is left."""
        del request, client_address
        log.warning("connection.dropped", error=reason(sys.exception()))

    def service_actions(self) -> None:
        """Write the status; called by `serve_forever` at least every TICK_SECONDS."""
        self.services.write_status()


def reason(error: BaseException | None) -> str:
    """Return why a connection could not be served; a MemoryError has no text."""
    return str(error) or type(error).__name__


def create(settings: Settings, services: Services) -> Server:
    """Return the server of *settings*; raises ConfigurationError if the TLS certificate is unusable."""
    ae = AE(settings.dicom.ae_title)
    ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.maximum_pdu_size = settings.dicom.max_pdu_bytes
    # The deadlines are those of `Wire`: pynetdicom's depend on the time of day.
    ae.acse_timeout = ae.network_timeout = None
    found = ae.make_server(
        (settings.dicom.dicom_host, settings.dicom.dicom_port),
        contexts=negotiation.supported(mpps=settings.dicom.mpps),
        evt_handlers=[(event, finish) for event in EVENTS.values()],
        server_class=Server,
        request_handler=Handler,
        services=services,
    )
    server = cast("Server", found)
    server.use(tls.server_context(settings))
    return server


def finish(event: Any) -> int:
    """End the request of an event, whose data set is complete; returns the status."""
    status: int = event.request.handler.finish()
    return status
