"""PDUs of the DICOM upper layer over one TCP connection, for the accepting side (PS3.8 9.3).

Every length is checked against a limit before a byte is stored, and every PDU has a deadline.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

#: Reasons of an A-ABORT by the service provider (PS3.8 9.3.8).
NOT_SPECIFIED, UNRECOGNIZED_PDU, UNEXPECTED_PDU, INVALID_PARAMETER = 0, 1, 2, 6

PDU_HEADER = struct.Struct(">BxI")
PDV_HEADER = struct.Struct(">IBB")
#: Bits of a PDV's message control header (PS3.8 E.2).
COMMAND, LAST = 1, 2

#: Longest A-ASSOCIATE-RQ, in bytes: 128 contexts that each propose all 45 transfer syntaxes have some 180 KB.
LONGEST_ASSOCIATE_RQ = 256 * 1024
#: From the first byte of a PDU to its last, in seconds: 128 KiB in 30 s is a modem's speed.
PDU_SECONDS = 30
#: How often a blocked read looks at its deadline and at the stop signal.
TICK_SECONDS = 0.5
TIMEVAL = struct.Struct("@ll")
#: Seconds for a TLS handshake, each step of it.
HANDSHAKE_SECONDS = 10
#: Seconds a peer may leave our answer unread.
SEND_SECONDS = 30


class PeerGone(Exception):
    """Raised when the peer closed the connection, aborted, or was silent for too long; there is nobody to answer."""


class Abort(Exception):
    """Raised when the peer broke the protocol: the association ends with an A-ABORT that carries *reason*."""

    def __init__(self, what: str, reason: int) -> None:
        self.reason = reason
        super().__init__(what)


class Connection:
    """Reads and writes whole PDUs; *stopping* is asked now and then, so that a stop need not wait for a silent peer.

    *associated* is for the server: a connection that never becomes an association may be the first to go.
    """

    associated = False
    #: Called between two PDUs when the peer has been silent for a tick.
    when_idle: Callable[[], None] | None = None

    def __init__(self, peer: socket.socket, max_pdu_bytes: int, stopping: Callable[[], bool]) -> None:
        self._socket = peer
        self._stopping = stopping
        self._maximum = max_pdu_bytes
        # The kernel keeps the time: with Python's own timeouts each call is preceded by a poll.
        peer.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            peer.setsockopt(socket.SOL_SOCKET, option, TIMEVAL.pack(0, int(TICK_SECONDS * 1e6)))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Resident only as far as it is used: a silent connection costs no memory.
        self._buffer = memoryview(bytearray(max(LONGEST_ASSOCIATE_RQ, 2 * max_pdu_bytes) + PDU_HEADER.size))
        self._start = self._end = 0
        #: Where the system lets us; a TLS record is written in one piece.
        self._acknowledges = hasattr(socket, "TCP_QUICKACK")

    def secure(self, context: ssl.SSLContext | None) -> None:
        """Become a TLS connection, where *context* is given; raises PeerGone."""
        if context is None:
            return
        self._acknowledges = False
        try:
            self._socket.settimeout(HANDSHAKE_SECONDS)
            self._socket = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
            self._socket.do_handshake()
            self._socket.settimeout(TICK_SECONDS)
        except OSError as error:
            raise PeerGone(f"no TLS connection: {getattr(error, 'reason', None) or type(error).__name__}") from error

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def read(self, wait_seconds: float, *, associated: bool = True) -> tuple[int, memoryview]:
        """The next PDU's type and content, which is valid until the next call.

        Raises PeerGone when none begins within *wait_seconds* or it does not end in time, Abort where it is too long.
        """
        began = time.monotonic()
        self._fill(PDU_HEADER.size, began + wait_seconds)
        kind, length = PDU_HEADER.unpack_from(self._buffer, self._start)
        if not ASSOCIATE_RQ <= kind <= ABORT:
            raise Abort(f"unknown PDU type {kind}", UNRECOGNIZED_PDU)
        if length > (self._maximum if associated else LONGEST_ASSOCIATE_RQ):
            raise Abort(f"a PDU of {length} bytes", INVALID_PARAMETER)
        self._fill(PDU_HEADER.size + length, time.monotonic() + PDU_SECONDS)
        start = self._start + PDU_HEADER.size
        self._start = start + length
        return kind, self._buffer[start : self._start]

    def send(self, kind: int, content: bytes) -> None:
        """Write one PDU; raises PeerGone."""
        rest = memoryview(PDU_HEADER.pack(kind, len(content)) + content)
        deadline = time.monotonic() + SEND_SECONDS
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except (TimeoutError, BlockingIOError):
                if time.monotonic() > deadline:
                    raise PeerGone("the peer does not read our answers") from None
            except OSError as error:
                raise PeerGone("the connection broke") from error

    def cut(self) -> None:
        """End the connection from another thread: whoever reads from it gets PeerGone."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _fill(self, wanted: int, deadline: float) -> None:
        """Have *wanted* bytes from the start of the present PDU in the buffer."""
        if self._end - self._start < wanted and self._start:
            rest = self._end - self._start
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest
        while self._end - self._start < wanted:
            self._end += self._receive(deadline)

    def _receive(self, deadline: float) -> int:
        while True:
            try:
                received = self._socket.recv_into(self._buffer[self._end :])
            except (TimeoutError, BlockingIOError):
                received = None
            except OSError as error:
                raise PeerGone("the connection broke") from error
            if received == 0:
                raise PeerGone("the peer closed the connection")
            if time.monotonic() > deadline:
                raise PeerGone("the peer was silent or slow for too long")
            if received is None and self._stopping():
                raise PeerGone("the listener stops")
            if received is not None:
                self._acknowledge()
                return received
            if self.when_idle is not None and self._start == self._end:
                self.when_idle()

    def _acknowledge(self) -> None:
        """Have the kernel acknowledge at once.

        Senders that write a PDU in two pieces and leave Nagle's algorithm on (DCMTK does) hold the second piece until
        the first is acknowledged, which Linux delays by 40 ms: 48 ms for each instance, measured.
        """
        if self._acknowledges:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def pdvs(content: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The presentation data values of a P-DATA-TF: context id, control header, fragment; raises Abort."""
    if not content:  # says nothing, but would keep an idle association open
        raise Abort("a P-DATA-TF without a PDV", INVALID_PARAMETER)
    offset = 0
    while offset < len(content):
        if offset + PDV_HEADER.size > len(content):
            raise Abort("a PDV without a header", INVALID_PARAMETER)
        length, context_id, control = PDV_HEADER.unpack_from(content, offset)
        end = offset + 4 + length
        if length < 2 or end > len(content):  # noqa: PLR2004 - context id and control header
            raise Abort(f"a PDV of {length} bytes", INVALID_PARAMETER)
        yield context_id, control, content[offset + PDV_HEADER.size : end]
        offset = end
