"""An audit record repository that receives syslog over TLS, with faults."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from xml.etree import ElementTree as ET

from tests.certificates import write_certificate

if TYPE_CHECKING:
    from pathlib import Path

HEADER = re.compile(
    rb"<85>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [!-~]{1,255} prelim \d+ DICOM\+RFC3881 - \xef\xbb\xbf(<.*>)",
    re.DOTALL,
)
ROW = re.compile(r"chain (\d+), row (\d+), ([0-9a-f]{64})")


@dataclass
class AuditRepository:
    """Server on a free port of 127.0.0.1; each connection takes the next of *faults*, and none once they are used up.

    close: without reading, the TCP connection alone; goodbye: the same, after close_notify; cut: within the first
    message; last_cut: within the last message, by a reset; mute: reads all and closes TCP without close_notify;
    unread: leaves the messages in its kernel and closes; slow: a few bytes at a time.
    """

    folder: Path
    client_authority: Path | None = None
    faults: list[str] = field(default_factory=list)
    #: Bodies of the messages that were read completely, in order, with those that were sent again.
    received: list[bytes] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self.certificate, self.key = self.folder / "repository.pem", self.folder / "repository.key"
        if not self.certificate.exists():
            write_certificate(self.certificate, self.key, days=30, address="127.0.0.1")
        self.port = 0
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, self.key)
        if self.client_authority is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(self.client_authority)
            self._context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        # The same port after a restart.
        self._server = socket.create_server(("127.0.0.1", self.port))
        self.port = self._server.getsockname()[1]
        self._stopping.clear()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            fault = self.faults.pop(0) if self.faults else ""
            connection.settimeout(20)
            try:
                self._receive(connection, fault)
            except OSError:  # the sender has gone
                pass
            finally:
                connection.close()

    def _receive(self, connection: socket.socket, fault: str) -> None:
        if fault == "close":
            return
        with self._context.wrap_socket(connection, server_side=True) as tls:
            if fault == "goodbye":
                tls.unwrap()
                return
            if fault == "unread":
                time.sleep(0.1)
                _reset(tls)
                return
            if self._read(tls, fault):
                tls.unwrap()

    def _read(self, tls: ssl.SSLSocket, fault: str) -> bool:
        """Read messages; return whether the connection is to be closed in order."""
        held = b""
        while part := tls.recv(200 if fault == "slow" else 65536):
            if fault == "slow":
                time.sleep(0.0005)
            held += part
            if fault == "cut":
                _reset(tls)
                return False
            while (frame := _frame(held)) is not None:
                body, held = frame
                if fault == "last_cut" and not held:
                    _reset(tls)
                    return False
                self.received.append(body)
        # The rest of a message is that of a sender that was killed.
        return fault != "mute" and not held

    def rows(self) -> list[tuple[int, int]]:
        """Return chain and sequence of each message, in order, without those that were sent again."""
        return list(dict.fromkeys((chain, sequence) for chain, sequence, _ in self.named()))

    def named(self) -> list[tuple[int, int, str]]:
        """Return chain, sequence and hash of each message, in order."""
        found = []
        for body in list(self.received):
            text = message(body).findtext("EventIdentification/EventOutcomeDescription")
            match = ROW.search(text or "")
            assert match is not None, text
            found.append((int(match[1]), int(match[2]), match[3]))
        return found


def message(body: bytes) -> ET.Element:
    """Return the XML of a syslog message whose header is that of RFC 5424."""
    match = HEADER.fullmatch(body)
    assert match is not None, body[:200]
    return ET.fromstring(match[1].decode())


def _frame(held: bytes) -> tuple[bytes, bytes] | None:
    """Return the first message that is counted in octets, and the rest; None if it is incomplete."""
    length, space, rest = held.partition(b" ")
    if not space or len(rest) < int(length):
        return None
    return rest[: int(length)], rest[int(length) :]


def _reset(tls: ssl.SSLSocket) -> None:
    tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
