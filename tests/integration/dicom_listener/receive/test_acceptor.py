"""A server without an address of its own: it serves sockets that another process has accepted."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from pynetdicom import evt
from structlog.testing import capture_logs

from dicom_listener.receive.prefork.channel import Channel, Message
from dicom_listener.receive.prefork.child_server import Child
from dicom_listener.receive.seats import Seats
from dicom_listener.receive.services import Services
from dicom_listener.receive.upper_layer import acceptor
from dicom_listener.receive.upper_layer import wire as served_wire
from dicom_listener.receive.upper_layer.association import Association
from dicom_listener.receive.upper_layer.negotiation import LOCAL_LIMIT_EXCEEDED
from tests.fuzz import wire
from tests.fuzz.wire import Client
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from db.settings import Settings
    from dicom_listener.receive.peers import Peer
    from dicom_listener.receive.upper_layer.acceptor import Server
    from dicom_listener.receive.upper_layer.negotiation import Rejection


class AskingSeats(Seats):
    """Seats that record what they are asked, as those of a process that asks its parent."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.dicom)
        self.asked: list[tuple[str, str]] = []
        self.rejection: Rejection | None = None

    def connect(self, association_id: str, address: str) -> list[str]:
        self.asked.append(("connect", association_id))
        return super().connect(association_id, address)

    def take(self, peer: Peer, *, echo_only: bool) -> Rejection | None:
        self.asked.append(("take", peer.association_id))
        return self.rejection or super().take(peer, echo_only=echo_only)

    def release(self, association_id: str) -> None:
        self.asked.append(("release", association_id))
        super().release(association_id)


@pytest.fixture
def seats(settings: Settings) -> AskingSeats:
    return AskingSeats(settings)


@pytest.fixture
def server(settings: Settings, seats: AskingSeats) -> Iterator[Server]:
    services = Services(settings, seats)
    services.open()
    server = acceptor.create(settings, services)
    yield server
    assert server.stop(5) == 0
    server.server_close()
    services.close()


@pytest.fixture
def accepting() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def connect(accepting: socket.socket, server: Server, association_id: str) -> Client:
    client = Client(accepting.getsockname()[1])
    server.serve(*accepting.accept(), association_id)
    return client


def test_accepted_socket_is_served_under_the_given_id(
    accepting: socket.socket, server: Server, seats: AskingSeats
) -> None:
    with connect(accepting, server, "first") as client:
        assert client.associate().echo() == 0
        assert (len(server.associations), seats.taken) == (1, 1)
        client.release()
    wait_until(lambda: not server.associations)
    assert seats.asked == [("connect", "first"), ("take", "first"), ("release", "first")]


def test_prepared_associations_serve_a_burst_and_end_with_the_server(accepting: socket.socket, server: Server) -> None:
    server.prepare()
    assert sum(isinstance(thread, Association) for thread in threading.enumerate()) == acceptor.PREPARED
    with contextlib.ExitStack() as clients:
        for number in range(2 * acceptor.PREPARED):
            client = clients.enter_context(connect(accepting, server, str(number)))
            assert client.associate().echo() == 0
    wait_until(lambda: not server.associations)
    server.stop(5)
    wait_until(lambda: not any(isinstance(thread, Association) for thread in threading.enumerate()))


def test_connection_without_memory_for_its_buffer_leaves_no_seat_and_no_thread(
    accepting: socket.socket, server: Server, seats: AskingSeats, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(served_wire, "MAX_ASSOCIATE_RQ_BYTES", 1 << 60)
        with Client(accepting.getsockname()[1]):
            connection, address = accepting.accept()
            with connection, pytest.raises(MemoryError):
                server.serve(connection, address, "large")
    assert seats.asked == [("connect", "large"), ("release", "large")]
    with connect(accepting, server, "next") as client:
        assert client.associate().echo() == 0
        client.release()
    wait_until(lambda: not server.associations)
    server.stop(5)
    wait_until(lambda: not any(isinstance(thread, Association) for thread in threading.enumerate()))


def test_child_drops_a_connection_without_memory_and_serves_the_next(
    accepting: socket.socket, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = Channel.pair()
    child = Child(settings, theirs)
    with contextlib.ExitStack() as ends, capture_logs() as lines:
        ends.callback(ours.close)
        ends.callback(theirs.close)
        ends.callback(child._acceptor.stop, 5)

        def hand_over(association_id: str) -> Client:
            client = ends.enter_context(Client(accepting.getsockname()[1]))
            connection, address = accepting.accept()
            child._act(Message("serve", {"id": association_id, "address": address}, connection))
            return client

        with monkeypatch.context() as patch:
            patch.setattr(served_wire, "MAX_ASSOCIATE_RQ_BYTES", 1 << 60)
            assert hand_over("large").connection.recv(1) == b""
        hand_over("next")
        assert list(child._acceptor.associations) == ["next"]
    assert [line["error"] for line in lines if line["event"] == "connection.dropped"] == ["MemoryError"]


def test_association_is_rejected_for_the_reason_of_the_seats(
    accepting: socket.socket, server: Server, seats: AskingSeats
) -> None:
    seats.rejection = LOCAL_LIMIT_EXCEEDED
    with connect(accepting, server, "full") as client:
        assert client.ask(wire.associate_rq()) == (wire.ASSOCIATE_RJ, bytes((0, 2, 3, 2)))
    wait_until(lambda: seats.asked[-1] == ("release", "full"))


def test_pending_connection_can_be_ended_from_another_thread(accepting: socket.socket, server: Server) -> None:
    with connect(accepting, server, "old") as old, connect(accepting, server, "new") as new:
        server.end("old")
        server.end("unknown")
        with pytest.raises(ConnectionError):
            old.read()
        assert new.associate().echo() == 0
    wait_until(lambda: not server.associations)


@pytest.mark.parametrize("event", [evt.EVT_C_STORE, evt.EVT_C_ECHO])
def test_request_ends_with_its_event(accepting: socket.socket, server: Server, event: evt.EventType) -> None:
    ended = []

    def refuse(found: Any) -> int:
        ended.append((found.assoc.peer.calling_ae_title, found.request.handler.finish()))
        return 0xB000

    server.bind(event, refuse)
    with connect(accepting, server, "bound") as client:
        client.associate()
        statuses = {evt.EVT_C_ECHO: client.echo(), evt.EVT_C_STORE: client.store("1.2.3", wire.ct_slice("1.2.3"))}
    assert statuses[event] == 0xB000
    assert sorted(statuses.values()) == [0, 0xB000]
    assert ended == [("FUZZ", 0)]
