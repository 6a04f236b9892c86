"""Read the peers file: peers that may associate, and where they accept storage commitment results.

    # peers.toml
    called = ["PRELIM"]              # accepted called AE titles; default: any

    [[peer]]
    ae_title = "CT_1"
    addresses = ["10.1.2.0/24"]      # allowed addresses or networks; default: any
    host = "10.1.2.7"                # address for storage commitment results; default: none,
    port = 104                       # results are sent on the association of the request
    same_association = false         # true: always on the association of the request
    tls = false                      # true: results are sent over TLS
    objects_per_minute = 3000        # quotas; default: those of the settings
    megabytes_per_minute = 2000

Without a file, every peer may associate. With one, only the peers in it.
"""

from __future__ import annotations

import ipaddress
import threading
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from db.errors import ConfigurationError
from dicom_listener.receive.upper_layer.negotiation import (
    ADDRESS_NOT_ALLOWED,
    CALLED_AE_TITLE_NOT_RECOGNIZED,
    CALLING_AE_TITLE_NOT_RECOGNIZED,
)

if TYPE_CHECKING:
    from pathlib import Path

    from dicom_listener.receive.upper_layer.negotiation import Rejection

log = structlog.get_logger()

PEER_FIELDS: dict[str, type] = {
    "ae_title": str,
    "addresses": list,
    "host": str,
    "port": int,
    "same_association": bool,
    "tls": bool,
    "objects_per_minute": int,
    "megabytes_per_minute": int,
}
QUOTAS = "objects_per_minute", "megabytes_per_minute"
TYPE_NAMES = {str: "a string", int: "an integer", bool: "true or false", list: "an array"}
MAX_AE_TITLE_CHARACTERS = 16
MAX_PORT = 65535
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Peer:
    """Peer of an association, by the AE titles and the address it uses."""

    association_id: str
    calling_ae_title: str
    called_ae_title: str
    address: str


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """Entry of the file for one AE title."""

    ae_title: str
    addresses: tuple[Network, ...] = ()
    host: str | None = None
    port: int | None = None
    #: True if results are sent on the association of the request.
    same_association: bool = False
    tls: bool = False
    #: Quotas; None: those of the settings.
    objects_per_minute: int | None = None
    megabytes_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """Content of the file; by default, every peer may associate."""

    called: frozenset[str] = frozenset()
    peers: dict[str, KnownPeer] | None = None

    def check(self, peer: Peer) -> Rejection | None:
        """Return the rejection for *peer*; None if it may associate."""
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
        """Return the entry for *ae_title*; an empty one if the file has none."""
        return (self.peers or {}).get(ae_title, KnownPeer(ae_title))


def read_rules(path: Path) -> Rules:
    """Read the file; raises ConfigurationError that names the fault."""
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
            raise ValueError(f"duplicate peer {peer.ae_title}: remove one of its entries")
        peers[peer.ae_title] = peer
    return Rules(frozenset(_texts(content, "called")), peers)


def _known_peer(entry: dict[str, Any]) -> KnownPeer:
    if not isinstance(entry, dict):
        raise TypeError("invalid peer: expected [[peer]] tables")
    _check(entry, PEER_FIELDS)
    ae_title = entry.get("ae_title", "").strip()
    if not 0 < len(ae_title) <= MAX_AE_TITLE_CHARACTERS:
        raise ValueError("invalid ae_title: expected 1 to 16 characters")
    if ("host" in entry) != ("port" in entry):
        raise ValueError(f"peer {ae_title}: set both host and port, or neither")
    if not 0 < entry.get("port", 1) <= MAX_PORT:
        raise ValueError(f"peer {ae_title}: port out of range (1-{MAX_PORT})")
    for name in QUOTAS:
        if entry.get(name, 1) < 1:
            raise ValueError(f"peer {ae_title}: {name} out of range (1 or more)")
    networks = tuple(ipaddress.ip_network(address) for address in _texts(entry, "addresses"))
    return KnownPeer(**{**entry, "ae_title": ae_title, "addresses": networks})


def _check(table: dict[str, Any], fields: dict[str, type]) -> None:
    unknown = table.keys() - fields
    if unknown:
        raise ValueError(f"unknown key {', '.join(sorted(unknown))}: expected {', '.join(fields)}")
    for name, value in table.items():
        # Not isinstance: true is an int in Python.
        if type(value) is not fields[name]:
            raise TypeError(f"invalid {name}: expected {TYPE_NAMES[fields[name]]}")


def _texts(table: dict[str, Any], name: str) -> list[str]:
    texts: list[str] = table.get(name, [])
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"invalid {name}: expected an array of strings")
    return texts


class PeerDirectory:
    """The current rules: read again when the file changes; an invalid file leaves the last valid rules in force."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._changed: Any = self._stamp()
        self._rules = Rules() if path is None else read_rules(path)

    def rules(self) -> Rules:
        """Return the rules for a new association."""
        with self._lock:
            stamp = self._stamp()
            if self._path is not None and stamp != self._changed:
                self._changed = stamp
                try:
                    self._rules = read_rules(self._path)
                    log.info("peers_file.read", peers=len(self._rules.peers or ()))
                except ConfigurationError as error:
                    log.error("peers_file.invalid", error=str(error))  # noqa: TRY400 - a fault of the file
            return self._rules

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat() if self._path else None
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size) if status else None
