"""Who may talk to us, and where they can be called back: one readable file.

    # peers.toml
    called = ["PRELIM"]              # names we answer to; left out: any

    [[peer]]
    ae_title = "CT_1"
    addresses = ["10.1.2.0/24"]      # where it may call from; left out: anywhere
    host = "10.1.2.7"                # where it takes storage commitment reports;
    port = 104                       # left out: on the association in which it asked, and
    same_association = false         # true: there although it has an address
    tls = false                      # true: it takes them over TLS

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
from dicom_listener.receive.negotiation import (
    ADDRESS_NOT_ALLOWED,
    CALLED_AE_TITLE_NOT_RECOGNIZED,
    CALLING_AE_TITLE_NOT_RECOGNIZED,
)

if TYPE_CHECKING:
    from pathlib import Path

    from dicom_listener.receive.negotiation import Rejection

log = structlog.get_logger()

PEER_FIELDS: dict[str, type] = {
    "ae_title": str,
    "addresses": list,
    "host": str,
    "port": int,
    "same_association": bool,
    "tls": bool,
}
TYPE_NAMES = {str: "a text", int: "a number", bool: "true or false", list: "a list"}
LONGEST_AE_TITLE = 16
LAST_PORT = 65535
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
    tls: bool = False


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
    _check(content, {"called": list, "peer": list})
    peers: dict[str, KnownPeer] = {}
    for entry in content.get("peer", []):
        peer = _known_peer(entry)
        if peer.ae_title in peers:
            raise ValueError(f"{peer.ae_title} is named twice")
        peers[peer.ae_title] = peer
    return Rules(frozenset(_texts(content, "called")), peers)


def _known_peer(entry: dict[str, Any]) -> KnownPeer:
    if not isinstance(entry, dict):
        raise TypeError("write each peer as [[peer]]")
    _check(entry, PEER_FIELDS)
    ae_title = entry.get("ae_title", "").strip()
    if not 0 < len(ae_title) <= LONGEST_AE_TITLE:
        raise ValueError("each peer needs an ae_title of 1 to 16 characters")
    if ("host" in entry) != ("port" in entry):
        raise ValueError(f"{ae_title} needs host and port, or neither")
    if not 0 < entry.get("port", 1) <= LAST_PORT:
        raise ValueError(f"the port of {ae_title} is none")
    networks = tuple(ipaddress.ip_network(address) for address in _texts(entry, "addresses"))
    return KnownPeer(**{**entry, "ae_title": ae_title, "addresses": networks})


def _check(table: dict[str, Any], fields: dict[str, type]) -> None:
    unknown = table.keys() - fields
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))} is none of {', '.join(fields)}")
    for name, value in table.items():
        # Exactly: true is an int to Python.
        if type(value) is not fields[name]:
            raise TypeError(f"{name} must be {TYPE_NAMES[fields[name]]}")


def _texts(table: dict[str, Any], name: str) -> list[str]:
    texts: list[str] = table.get(name, [])
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{name} must be a list of texts")
    return texts


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
