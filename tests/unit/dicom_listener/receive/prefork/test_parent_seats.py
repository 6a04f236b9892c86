"""A process of the listener whose parent is frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_listener.receive.peers import Peer
from dicom_listener.receive.prefork import parent_seats
from dicom_listener.receive.prefork.channel import Channel
from dicom_listener.receive.prefork.parent_seats import ParentSeats
from dicom_listener.receive.upper_layer.negotiation import TRANSIENT

if TYPE_CHECKING:
    import pytest


def test_peer_of_a_frozen_parent_may_try_again_and_is_told_of_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parent_seats.ANSWER_SECONDS < 10
    monkeypatch.setattr(parent_seats, "ANSWER_SECONDS", 0.01)
    parent, child = Channel.pair()
    rejection = ParentSeats(child).take(Peer("1", "CT", "PRELIM", "127.0.0.1"), echo_only=False)
    for end in (parent, child):
        end.close()

    assert rejection is not None
    assert (rejection.result, rejection.cause) == (TRANSIENT, "the process that accepts connections does not answer")
