"""Read and write PDUs of the DICOM upper layer over one TCP connection, as the acceptor (PS3.8 9.3).

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

#: Bytes of an A-ASSOCIATE-RQ: 128 contexts that each propose all 45 transfer syntaxes have about 180 KB.
MAX_ASSOCIATE_RQ_BYTES = 256 * 1024
#: Seconds from the first byte of a PDU to its last: 128 KiB in 30 s is a modem's speed.
PDU_SECONDS = 30
#: Seconds between two checks of deadline and stop signal in a blocked read.
TICK_SECONDS = 0.5
TIMEVAL = struct.Struct("@ll")
#: Seconds for each step of a TLS handshake.
HANDSHAKE_SECONDS = 10
#: Seconds for the peer to read a response.
SEND_SECONDS = 30


class ConnectionClosed(Exception):
    """Raised when no response is possible: connection closed, deadline passed, or listener stopping."""


class IdleTooLong(ConnectionClosed):
    """Raised when the peer has sent nothing for too long, between two PDUs."""


class Abort(Exception):
    """Raised when the peer violates the protocol: the association ends with an A-ABORT that carries *reason*."""

    def __init__(self, cause: str, reason: int) -> None:
        self.reason = reason
        super().__init__(cause)


class Connection:
    """Read and write complete PDUs.

    *stopping* is polled every TICK_SECONDS, so that a stop does not wait for an idle peer.
    """

    def __init__(self, peer: socket.socket, max_pdu_bytes: int, stopping: Callable[[], bool]) -> None:
        self._socket = peer
        self._stopping = stopping
        self._maximum = max_pdu_bytes
        # Timeouts of the kernel: with Python's own, a poll precedes each call.
        peer.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            peer.setsockopt(socket.SOL_SOCKET, option, TIMEVAL.pack(0, int(TICK_SECONDS * 1e6)))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Resident only as far as it is used: a pending connection costs no memory.
        self._buffer = memoryview(bytearray(max(MAX_ASSOCIATE_RQ_BYTES, 2 * max_pdu_bytes) + PDU_HEADER.size))
        self._start = self._end = 0
        #: Only where the system offers it, and without TLS, whose records are written in one piece.
        self._acknowledges = hasattr(socket, "TCP_QUICKACK")

    def secure(self, context: ssl.SSLContext | None) -> None:
        """Start TLS if *context* is given; raises ConnectionClosed if the handshake fails."""
        if context is None:
            return
        self._acknowledges = False
        try:
            self._socket.settimeout(HANDSHAKE_SECONDS)
            self._socket = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
            self._socket.do_handshake()
            self._socket.settimeout(TICK_SECONDS)
        except OSError as error:
            raise ConnectionClosed(
                f"TLS handshake failed: {getattr(error, 'reason', None) or type(error).__name__}"
            ) from error

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def read(
        self, wait_seconds: float, *, associated: bool = True, on_idle: Callable[[], None] | None = None
    ) -> tuple[int, memoryview]:
        """Return type and content of the next PDU; the content is valid until the next call.

        *on_idle* is called every TICK_SECONDS while the PDU has not begun. Raises ConnectionClosed if it does not begin
        within *wait_seconds* or is not complete PDU_SECONDS later, Abort if it is unknown or too long. Before the
        association, the whole PDU must arrive within *wait_seconds*.
        """
        deadline = time.monotonic() + wait_seconds
        self._fill(PDU_HEADER.size, deadline, on_idle)
        kind, length = PDU_HEADER.unpack_from(self._buffer, self._start)
        if not ASSOCIATE_RQ <= kind <= ABORT:
            raise Abort(f"unknown PDU type {kind}", UNRECOGNIZED_PDU)
        if length > (self._maximum if associated else MAX_ASSOCIATE_RQ_BYTES):
            raise Abort(f"PDU too long ({length} bytes)", INVALID_PARAMETER)
        self._fill(PDU_HEADER.size + length, time.monotonic() + PDU_SECONDS if associated else deadline)
        start = self._start + PDU_HEADER.size
        self._start = start + length
        return kind, self._buffer[start : self._start]

    def send(self, kind: int, content: bytes) -> None:
        """Write one PDU; raises ConnectionClosed."""
        rest = memoryview(PDU_HEADER.pack(kind, len(content)) + content)
        deadline = time.monotonic() + SEND_SECONDS
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except (TimeoutError, BlockingIOError):
                if time.monotonic() > deadline:
                    raise ConnectionClosed("the peer does not read responses") from None
            except OSError as error:
                raise ConnectionClosed(f"connection lost: {error.strerror or type(error).__name__}") from error

    def shutdown(self) -> None:
        """End the connection from another thread: `read` raises ConnectionClosed there."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _fill(self, wanted: int, deadline: float, on_idle: Callable[[], None] | None = None) -> None:
        """Receive until the buffer holds *wanted* bytes from the start of the current PDU."""
        if self._end - self._start < wanted and self._start:
            rest = self._end - self._start
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest
        while self._end - self._start < wanted:
            self._end += self._receive(deadline, on_idle)

    def _receive(self, deadline: float, on_idle: Callable[[], None] | None) -> int:
        while True:
            try:
                received = self._socket.recv_into(self._buffer[self._end :])
            except (TimeoutError, BlockingIOError):
                received = None
            except OSError as error:
                raise ConnectionClosed(f"connection lost: {error.strerror or type(error).__name__}") from error
            if received == 0:
                raise ConnectionClosed("the peer closed the connection")
            if time.monotonic() > deadline:
                cause = "timeout: the peer sent no data or was too slow"
                raise IdleTooLong(cause) if self._start == self._end else ConnectionClosed(cause)
            if received is None and self._stopping():
                raise ConnectionClosed("the listener is stopping")
            if received is not None:
                self._acknowledge()
                return received
            if on_idle is not None and self._start == self._end:
                on_idle()

    def _acknowledge(self) -> None:
        """Make the kernel acknowledge without delay.

        Senders that write a PDU in two pieces with Nagle's algorithm on (DCMTK does) hold the second piece until the
        first is acknowledged, which Linux delays by 40 ms: 48 ms for each instance, measured.
        """
        if self._acknowledges:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def pdvs(content: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield context id, control header and fragment of each presentation data value of a P-DATA-TF; raises Abort."""
    if not content:  # has no effect, but would keep an idle association open
        raise Abort("P-DATA-TF without a PDV", INVALID_PARAMETER)
    offset = 0
    while offset < len(content):
        if offset + PDV_HEADER.size > len(content):
            raise Abort("PDV without a header", INVALID_PARAMETER)
        length, context_id, control = PDV_HEADER.unpack_from(content, offset)
        end = offset + 4 + length
        if length < 2 or end > len(content):  # noqa: PLR2004 - context id and control header
            raise Abort(f"invalid PDV length ({length} bytes)", INVALID_PARAMETER)
        yield context_id, control, content[offset + PDV_HEADER.size : end]
        offset = end
