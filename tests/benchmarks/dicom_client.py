"""The fastest C-ECHO and association a client can make: bytes prepared beforehand, nothing decoded."""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 2.0
RELEASE_RQ = struct.pack(">BxI4x", 5, 4)


def associate_rq(called: str = "ANY-SCP", calling: str = "BENCH") -> bytes:
    """An A-ASSOCIATE-RQ that proposes Verification (PS3.8 9.3.2)."""
    abstract = item(0x30, b"1.2.840.10008.1.1")
    transfer = item(0x40, b"1.2.840.10008.1.2")
    context = item(0x20, bytes((1, 0, 0, 0)) + abstract + transfer)
    user = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.826.0.1.3680043.10.1511"))
    application = item(0x10, b"1.2.840.10008.3.1.1.1")
    titles = called.ljust(16).encode() + calling.ljust(16).encode()
    body = struct.pack(">HH", 1, 0) + titles + bytes(32) + application + context + user
    return struct.pack(">BxI", 1, len(body)) + body


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def echo_rq() -> bytes:
    """A P-DATA-TF with a C-ECHO-RQ (PS3.7 9.3.5)."""
    uid = b"1.2.840.10008.1.1\0"
    elements = struct.pack("<HHI", 0, 2, len(uid)) + uid
    for element, value in ((0x0100, 0x0030), (0x0110, 1), (0x0800, 0x0101)):
        elements += struct.pack("<HHIH", 0, element, 2, value)
    command = struct.pack("<HHII", 0, 0, 4, len(elements)) + elements
    pdv = struct.pack(">IBB", len(command) + 2, 1, 3) + command
    return struct.pack(">BxI", 4, len(pdv)) + pdv


def connect(port: int) -> socket.socket:
    """A connection that sends at once."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def exchange(connection: socket.socket, pdu: bytes) -> int:
    """Send one PDU, read one, return its type."""
    connection.sendall(pdu)
    kind, length = struct.unpack(">BxI", receive(connection, 6))
    receive(connection, length)
    return int(kind)


def receive(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        more = connection.recv(size - len(content))
        if not more:
            raise ConnectionError("the receiver closed the connection")
        content += more
    return content


def echoes_per_second(port: int) -> float:
    """C-ECHOs in one association."""
    with connect(port) as connection:
        assert exchange(connection, associate_rq()) == 2
        request = echo_rq()
        rate = per_second(lambda: exchange(connection, request))
        exchange(connection, RELEASE_RQ)
    return rate


def associations_per_second(port: int) -> float:
    """Connections that associate and release, one after the other."""
    request = associate_rq()

    def associate() -> None:
        with connect(port) as connection:
            assert exchange(connection, request) == 2
            exchange(connection, RELEASE_RQ)

    return per_second(associate)


def per_second(action: Callable[[], object]) -> float:
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        action()
        count += 1
    return count / (time.perf_counter() - started)
