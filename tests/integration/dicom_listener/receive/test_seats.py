"""Shares of the associations: of an address, of an AE title, and the seats kept for C-ECHO."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from db.settings import Settings
from dicom_listener.receive import seats
from dicom_listener.receive.listener import Listener
from dicom_listener.receive.peers import Peer
from dicom_listener.receive.seats import Seats
from dicom_listener.receive.upper_layer import association, negotiation
from tests.fuzz import wire
from tests.fuzz.wire import Client, echoes
from tests.integration.dicom_listener.listening import settings_for
from tests.polling import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from dicom_listener.receive.upper_layer.negotiation import Rejection

ECHO = wire.CONTEXTS[:1]


def limited(**limits: int) -> Seats:
    return Seats(Settings(**limits).dicom)


def take(
    found: Seats, number: int, address: str = "10.0.0.1", title: str = "CT_1", *, echo_only: bool = False
) -> Rejection | None:
    return found.take(Peer(str(number), title, "PRELIM", address), echo_only=echo_only)


def test_one_address_leaves_seats_for_others() -> None:
    found = limited(max_associations=3, max_associations_per_address=2)
    results = [take(found, number, title=f"AE{number}") for number in range(3)]
    assert results == [None, None, negotiation.ADDRESS_LIMIT_EXCEEDED]
    assert take(found, 3, "10.0.0.2") is None
    assert take(found, 4, "10.0.0.3") == negotiation.LOCAL_LIMIT_EXCEEDED


def test_one_ae_title_leaves_seats_for_others_at_its_address() -> None:
    found = limited(max_associations_per_ae_title=1)
    assert [take(found, number) for number in range(2)] == [None, negotiation.AE_TITLE_LIMIT_EXCEEDED]
    assert take(found, 2, title="CT_2") is None


def test_another_address_cannot_use_up_the_share_of_an_ae_title() -> None:
    found = limited(max_associations_per_ae_title=1)
    assert take(found, 0, "10.0.0.66") is None
    assert take(found, 1, "10.0.0.1") is None


def test_released_seat_is_free_again() -> None:
    found = limited(max_associations=1)
    for number in range(3):
        assert take(found, number) is None
        found.release(str(number))
    found.release("unknown")
    assert found.taken == 0


def test_seats_for_echo_are_limited_in_all_and_for_an_address() -> None:
    found = limited(max_associations=1)
    take(found, 0)
    of_one = [take(found, number, "10.0.1.1", echo_only=True) for number in range(1, 4)]
    assert of_one == [None, None, negotiation.LOCAL_LIMIT_EXCEEDED]
    of_others = [take(found, number, f"10.0.2.{number}", echo_only=True) for number in range(4, 12)]
    assert of_others.count(None) == seats.ECHO_SEATS - 2


def test_oldest_pending_connections_of_an_address_make_room() -> None:
    found = limited()
    ended = [found.connect(str(number), "10.0.0.1") for number in range(seats.MAX_PENDING_PER_ADDRESS + 2)]
    assert ended == [[]] * seats.MAX_PENDING_PER_ADDRESS + [["0"], ["1"]]
    assert found.connect("other", "10.0.0.2") == []


def test_oldest_pending_connections_of_all_make_room() -> None:
    found = limited()
    ended = [found.connect(str(number), f"10.0.0.{number}") for number in range(seats.MAX_PENDING + 1)]
    assert ended == [[]] * seats.MAX_PENDING + [["0"]]


def test_accepted_and_ended_connections_are_not_pending() -> None:
    found = limited(max_associations=1)
    for number in range(seats.MAX_PENDING_PER_ADDRESS):
        assert found.connect(str(number), "10.0.0.1") == []
    assert take(found, 0) is None
    found.release("1")
    assert take(found, 2) == negotiation.LOCAL_LIMIT_EXCEEDED
    assert [found.connect(number, "10.0.0.1") for number in ("a", "b", "c")] == [[], [], ["2"]]


@pytest.fixture
def full(tmp_path: Path) -> Listener:
    """Listener, not yet started, with seats for two associations."""
    return Listener(settings_for(tmp_path, max_associations=2))


def test_full_listener_answers_echo_and_rejects_storage(full: Listener) -> None:
    with full, contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(Client(full.port)).associate()
        with Client(full.port) as client:
            assert client.associate(ECHO).echo() == 0
            client.release()
        with Client(full.port) as client:
            assert client.ask(wire.associate_rq()) == (wire.ASSOCIATE_RJ, bytes((0, 2, 3, 2)))


def test_idle_association_soon_frees_its_seat_for_echo(full: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(association, "ARTIM_SECONDS", 0.5)
    with full, contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(Client(full.port)).associate()
        for _ in range(seats.ECHO_SEATS_PER_ADDRESS):
            stack.enter_context(Client(full.port)).associate(ECHO)
        wait_until(lambda: echo_is_accepted(full.port))


def echo_is_accepted(port: int) -> bool:
    with Client(port) as client:
        return client.ask(wire.associate_rq(ECHO))[0] == wire.ASSOCIATE_AC


def test_slow_association_request_is_closed_in_time(full: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(association, "ARTIM_SECONDS", 0.6)
    with full, Client(full.port, seconds=5) as client:
        client.send(wire.associate_rq()[:-1])
        with pytest.raises(ConnectionError):
            client.read()
        assert echoes(full.port)
