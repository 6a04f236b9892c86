"""Limits of the connections in a child: the parent counts those of all children."""

from __future__ import annotations

import contextlib
import queue
from typing import TYPE_CHECKING, Any

from dicom_listener.receive.upper_layer import negotiation
from dicom_listener.receive.upper_layer.negotiation import Rejection

if TYPE_CHECKING:
    from dicom_listener.receive.peers import Peer
    from dicom_listener.receive.prefork.channel import Channel

#: Seconds for the parent's answer: a frozen process delays others by at most 10 s.
ANSWER_SECONDS = 8


class ParentSeats:
    """The `Seats` of a child: asks the parent for each association."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._asked: dict[str, queue.SimpleQueue[dict[str, Any]]] = {}
        self._taken: set[str] = set()
        self._reserved: set[str] = set()

    @property
    def taken(self) -> int:
        """Number of open associations of this process within the limits."""
        return len(self._taken)

    def connect(self, association_id: str, address: str) -> list[str]:
        """Return no connection to end: the parent has counted the new one, and names those."""
        del association_id, address
        return []

    def take(self, peer: Peer, *, echo_only: bool) -> Rejection | None:
        """Take a seat for *peer*, or return the reason to reject it; transient if the parent does not answer."""
        found = self._asked[peer.association_id] = queue.SimpleQueue()
        titles = [peer.calling_ae_title, peer.called_ae_title]
        try:
            self._channel.send("take", id=peer.association_id, titles=titles, address=peer.address, echo_only=echo_only)
            seat = found.get(timeout=ANSWER_SECONDS)
        except (OSError, queue.Empty):
            return negotiation.NOT_ANSWERED
        finally:
            del self._asked[peer.association_id]
        if seat["rejection"] is not None:
            return Rejection(*seat["rejection"])
        (self._reserved if seat["reserved"] else self._taken).add(peer.association_id)
        return None

    def answer(self, seat: dict[str, Any]) -> None:
        """Pass on the parent's answer to the thread that waits for it."""
        found = self._asked.get(seat["id"])
        if found is not None:
            found.put(seat)

    def release(self, association_id: str) -> None:
        """Count a connection as ended."""
        self._taken.discard(association_id)
        self._reserved.discard(association_id)
        with contextlib.suppress(OSError):  # the parent is gone
            self._channel.send("release", id=association_id)

    def has_reserved(self, association_id: str) -> bool:
        """Return whether an association uses a seat for C-ECHO beyond the limits."""
        return association_id in self._reserved
