"""Who may talk to us, and where they can be called back: one readable file.

    # peers.toml
    called = ["PRELIM"]              # names we answer to; left out: any

    [[peer]]
    ae_title = "CT_1"
    addresses = ["10.1.2.0/24"]      # where it may call from; left out: anywhere
    host = "10.1.2.7"                # where it takes storage commitment reports;
    port = 104                       # left out: on the association in which it asked, and
    same_association = false         # true: there although it has an address

Without a file everybody is welcome. With one, only the peers it names.
"""

from __future__ import annotations

import ipaddress
import threading
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from db.errors import ConfigurationError
from dicom_listener.negotiation import (
    ADDRESS_NOT_ALLOWED,
    CALLED_AE_TITLE_NOT_RECOGNIZED,
    CALLING_AE_TITLE_NOT_RECOGNIZED,
)

if TYPE_CHECKING:
    from pathlib import Path

    from dicom_listener.negotiation import Rejection

log = structlog.get_logger()

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of an association, as it calls itself and us."""

    association_id: str
    calling_ae_title: str
    called_ae_title: str
    address: str


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """What the file says of one AE title."""

    ae_title: str
    addresses: tuple[Network, ...] = ()
    host: str | None = None
    port: int | None = None
    #: Takes commitment reports on the association in which it asked.
    same_association: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """What the file says; the default welcomes everybody."""

    called: frozenset[str] = frozenset()
    peers: dict[str, KnownPeer] | None = None

    def check(self, peer: Peer) -> Rejection | None:
        """Why *peer* may not associate, None where it may."""
        if self.called and peer.called_ae_title not in self.called:
            return CALLED_AE_TITLE_NOT_RECOGNIZED
        if self.peers is None:
            return None
        known = self.peers.get(peer.calling_ae_title)
        if known is None:
            return CALLING_AE_TITLE_NOT_RECOGNIZED
        address = ipaddress.ip_address(peer.address)
        if known.addresses and not any(address in network for network in known.addresses):
            return ADDRESS_NOT_ALLOWED
        return None

    def known(self, ae_title: str) -> KnownPeer:
        """What the file says of *ae_title*; nothing, where it does not name it."""
        return (self.peers or {}).get(ae_title, KnownPeer(ae_title))


def read_rules(path: Path) -> Rules:
    """Read the file; raises ConfigurationError that says what is wrong in it."""
    try:
        return _rules(tomllib.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _rules(content: dict[str, Any]) -> Rules:
    unknown = content.keys() - {"called", "peer"}
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))} is none of called, peer")
    peers = [_known_peer(**entry) for entry in content.get("peer", [])]
    return Rules(frozenset(content.get("called", ())), {peer.ae_title: peer for peer in peers})


def _known_peer(
    *,
    ae_title: str,
    addresses: tuple[str, ...] = (),
    host: str | None = None,
    port: int | None = None,
    same_association: bool = False,
) -> KnownPeer:
    if (host is None) != (port is None):
        raise ValueError(f"{ae_title} needs host and port, or neither")
    networks = tuple(ipaddress.ip_network(address) for address in addresses)
    return KnownPeer(ae_title, networks, host, port, same_association)


class PeerDirectory:
    """The rules in force: the file's, read again when it changes; a broken file leaves the last good rules."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._changed: Any = self._stamp()
        self._rules = Rules() if path is None else read_rules(path)

    def rules(self) -> Rules:
        """The rules for a new association."""
        with self._lock:
            stamp = self._stamp()
            if self._path is not None and stamp != self._changed:
                self._changed = stamp
                try:
                    self._rules = read_rules(self._path)
                    log.info("peers.read", peers=len(self._rules.peers or ()))
                except ConfigurationError as error:
                    log.error("peers.unreadable", why=str(error))  # noqa: TRY400 - the operator's to mend
            return self._rules

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat() if self._path else None
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size) if status else None
