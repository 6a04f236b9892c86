"""Limit associations and pending connections: in all, of one address, of an AE title at it; keep seats for C-ECHO."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from dicom_listener.receive.upper_layer import negotiation

if TYPE_CHECKING:
    from db.settings.reception import Dicom
    from dicom_listener.receive.peers import Peer
    from dicom_listener.receive.upper_layer.negotiation import Rejection

#: Seats beyond the limits for associations that propose only Verification: a monitor, and a person who looks for a
#: fault, must get an answer from a listener that is fully used.
ECHO_SEATS = 8
#: Of these, seats of one address: the others stay for other addresses.
ECHO_SEATS_PER_ADDRESS = 2
#: Pending connections, without an accepted association, of one address and of all: each costs a thread until ARTIM.
MAX_PENDING_PER_ADDRESS = 16
MAX_PENDING = 128


class Seats:
    """Count the pending connections and the open associations.

    AE titles are not authenticated, so that they are counted within an address: counted over all addresses, any
    address could use up the share of a scanner by its name.
    """

    def __init__(self, limits: Dicom) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        #: Addresses of the pending connections, in the order of connection.
        self._pending: dict[str, str] = {}
        self._taken: dict[str, Peer] = {}
        #: Seats for C-ECHO that are used beyond the limits.
        self._echo: dict[str, Peer] = {}
        self._addresses: Counter[str] = Counter()
        self._titles: Counter[tuple[str, str]] = Counter()

    def connect(self, association_id: str, address: str) -> list[str]:
        """Count a pending connection; return those to end, the oldest ones, of its address and of all.

        The new one is kept: a peer that only opens connections must not exclude others, nor its own C-ECHO.
        """
        with self._lock:
            self._pending[association_id] = address
            same_address = [pending for pending, other in self._pending.items() if other == address]
            excess = same_address[: max(len(same_address) - MAX_PENDING_PER_ADDRESS, 0)]
            rest = [pending for pending in self._pending if pending not in excess]
            excess += rest[: max(len(rest) - MAX_PENDING, 0)]
            for pending in excess:
                del self._pending[pending]
            return excess

    def take(self, peer: Peer, *, echo_only: bool) -> Rejection | None:
        """Take a seat for *peer*, or return the reason to reject it."""
        with self._lock:
            rejection = self._exceeded(peer)
            if rejection is None:
                self._taken[peer.association_id] = peer
                self._addresses[peer.address] += 1
                self._titles[peer.address, peer.calling_ae_title] += 1
            elif echo_only and self._has_echo_seat(peer.address):
                self._echo[peer.association_id] = peer
                rejection = None
            if rejection is None:
                self._pending.pop(peer.association_id, None)
            return rejection

    def release(self, association_id: str) -> None:
        """Count a connection as ended, and free the seat of its association, if it has one."""
        with self._lock:
            self._pending.pop(association_id, None)
            self._echo.pop(association_id, None)
            peer = self._taken.pop(association_id, None)
            if peer is None:
                return
            # Subtraction removes zero counts: a peer can make up any number of AE titles.
            self._addresses = self._addresses - Counter([peer.address])
            self._titles = self._titles - Counter([(peer.address, peer.calling_ae_title)])

    def has_reserved(self, association_id: str) -> bool:
        """Return whether an association uses a seat for C-ECHO beyond the limits."""
        return association_id in self._echo

    @property
    def taken(self) -> int:
        """Number of open associations within the limits."""
        return len(self._taken)

    def _exceeded(self, peer: Peer) -> Rejection | None:
        if len(self._taken) >= self._limits.max_associations:
            return negotiation.LOCAL_LIMIT_EXCEEDED
        if self._addresses[peer.address] >= self._limits.max_associations_per_address:
            return negotiation.ADDRESS_LIMIT_EXCEEDED
        if self._titles[peer.address, peer.calling_ae_title] >= self._limits.max_associations_per_ae_title:
            return negotiation.AE_TITLE_LIMIT_EXCEEDED
        return None

    def _has_echo_seat(self, address: str) -> bool:
        of_address = sum(peer.address == address for peer in self._echo.values())
        return len(self._echo) < ECHO_SEATS and of_address < ECHO_SEATS_PER_ADDRESS
