"""Read and write PDUs over the TCP connection of one association.

Every length is checked against a limit before a byte is stored, and every PDU has a deadline.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import TYPE_CHECKING

from pynetdicom.transport import AssociationSocket

from dicom_listener.receive import pdus
from dicom_listener.receive.pdus import PDU_HEADER, Abort, ConnectionClosed, IdleTooLong

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from dicom_listener.receive.upper_layer.association import Association

#: Bytes of an A-ASSOCIATE-RQ: 128 contexts that each propose all 45 transfer syntaxes have about 180 KB.
MAX_ASSOCIATE_RQ_BYTES = 256 * 1024
#: Seconds from the first byte of a PDU to its last: 128 KiB in 30 s is a modem's speed.
PDU_SECONDS = 30
#: Seconds between two checks of deadline and stop signal in a blocked read.
TICK_SECONDS = 0.5
#: Versions of the protocol that a peer supports, one bit for each.
PROTOCOL_VERSION = struct.Struct(">H")
TIMEVAL = struct.Struct("@ll")
#: Seconds for a TLS handshake in all.
HANDSHAKE_SECONDS = 10
#: Seconds for the peer to read a response.
SEND_SECONDS = 30


class Wire(AssociationSocket):
    """Socket of *association*; pynetdicom asks `ready`, then reads a PDU by `recv`.

    The association's `serve` reads PDUs by `peek` and `take`, until one is in the buffer that pynetdicom must read; it
    returns False if there is none. Its server's stop signal is polled every TICK_SECONDS: a stop does not wait for an
    idle peer.
    """

    def __init__(self, association: Association, connection: socket.socket) -> None:
        super().__init__(association, client_socket=connection)
        self._association = association
        self._maximum = association.ae.maximum_pdu_size
        #: The socket that is read and written; pynetdicom sets its own attribute to None.
        self._connection = connection
        # Timeouts of the kernel: with Python's own, a poll precedes each call.
        connection.settimeout(None)
        timeout = TIMEVAL.pack(0, int(TICK_SECONDS * 1e6))
        with contextlib.suppress(OSError):  # the peer has gone, which the first read finds
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Resident only as far as it is used: a pending connection costs no memory.
        self._buffer = memoryview(bytearray(max(MAX_ASSOCIATE_RQ_BYTES, 2 * self._maximum) + PDU_HEADER.size))
        self._start = self._end = 0
        #: Only where the system offers it, and without TLS, whose records are written in one piece.
        self._acknowledges = hasattr(socket, "TCP_QUICKACK")

    def begins(self) -> bool:
        """Return whether the peer begins a handshake, and does not close at once, as a load balancer that probes.

        Raises ConnectionClosed if it does neither in time.
        """
        self._connection.settimeout(HANDSHAKE_SECONDS)
        try:
            return self._connection.recv(1, socket.MSG_PEEK) != b""
        except TimeoutError as error:
            raise ConnectionClosed("TLS handshake failed: TimeoutError") from error
        except OSError:
            return False
        finally:
            # The timeouts of the kernel again, as in the constructor.
            self._connection.settimeout(None)

    def secure(self, context: ssl.SSLContext) -> None:
        """Start TLS; raises ConnectionClosed if the handshake fails."""
        self._acknowledges = False
        try:
            self._connection.settimeout(HANDSHAKE_SECONDS)
            secured = context.wrap_socket(self._connection, server_side=True, do_handshake_on_connect=False)
            self.socket = self._connection = secured
            secured.do_handshake()
            secured.settimeout(TICK_SECONDS)
        except OSError as error:
            raise ConnectionClosed(
                f"TLS handshake failed: {getattr(error, 'reason', None) or type(error).__name__}"
            ) from error

    @property
    def ready(self) -> bool:
        """Return whether pynetdicom must read a PDU.

        Never while events wait: a PDU is read in the state that the one before it has led to.
        """
        return self.event_queue.empty() and self._association.serve()

    def peek(
        self, wait_seconds: float, *, associated: bool = True, on_idle: Callable[[], None] | None = None
    ) -> tuple[int, int]:
        """Wait until the next PDU is in the buffer; return its type and the length of its content.

        *on_idle* is called every TICK_SECONDS while the PDU has not begun. Raises ConnectionClosed if it does not begin
        within *wait_seconds* or is not complete PDU_SECONDS later, Abort if it is unknown or too long. Before the
        association, the whole PDU must arrive within *wait_seconds*.
        """
        deadline = time.monotonic() + wait_seconds
        self._fill(PDU_HEADER.size, deadline, on_idle)
        kind, length = PDU_HEADER.unpack_from(self._buffer, self._start)
        if not pdus.ASSOCIATE_RQ <= kind <= pdus.ABORT:
            raise Abort(f"unknown PDU type {kind}", pdus.UNRECOGNIZED_PDU)
        if length > (self._maximum if associated else MAX_ASSOCIATE_RQ_BYTES):
            raise Abort(f"PDU too long ({length} bytes)", pdus.INVALID_PARAMETER)
        self._fill(PDU_HEADER.size + length, time.monotonic() + PDU_SECONDS if associated else deadline)
        return kind, length

    def keep_version_1(self, length: int) -> None:
        """Leave version 1, if it is there, as the only one that an A-ASSOCIATE-RQ found by `peek` supports.

        Only its bit must be tested (PS3.8 9.3.2), but pynetdicom rejects a request with any other bit.
        """
        content = self.view(length)
        if length >= PROTOCOL_VERSION.size and PROTOCOL_VERSION.unpack_from(content)[0] & 1:
            PROTOCOL_VERSION.pack_into(content, 0, 1)

    def view(self, length: int) -> memoryview:
        """Return the content of the PDU that `peek` has found; it stays in the buffer."""
        return self._buffer[self._start + PDU_HEADER.size :][:length]

    def take(self, length: int) -> memoryview:
        """Return the content of the PDU that `peek` has found, valid until the next call."""
        start = self._start + PDU_HEADER.size
        self._start = start + length
        return self._buffer[start : self._start]

    def recv(self, nr_bytes: int) -> bytearray:
        """Return the next bytes of the PDU that `peek` has found: header, then content."""
        start, self._start = self._start, min(self._start + nr_bytes, self._end)
        return bytearray(self._buffer[start : self._start])

    def send(self, bytestream: bytes) -> None:
        """Write a PDU of pynetdicom."""
        try:
            self.write(bytestream)
        except ConnectionClosed as closed:
            self._association.lose(closed)

    def write(self, encoded: bytes) -> None:
        """Write one PDU; raises ConnectionClosed."""
        rest = memoryview(encoded)
        deadline = time.monotonic() + SEND_SECONDS
        while rest:
            try:
                rest = rest[self._connection.send(rest) :]
            except (TimeoutError, BlockingIOError):
                if time.monotonic() > deadline:
                    raise ConnectionClosed("the peer does not read responses") from None
            except OSError as error:
                raise ConnectionClosed(f"connection lost: {error.strerror or type(error).__name__}") from error

    def shutdown(self, how: int = socket.SHUT_RDWR) -> None:
        """End the connection from another thread: `peek` raises ConnectionClosed there."""
        self._connection.shutdown(how)

    def release(self) -> None:
        """Close the connection and free the buffer, at the end of the association."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        self._buffer = memoryview(b"")
        self._start = self._end = 0

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
                received = self._connection.recv_into(self._buffer[self._end :])
            except (TimeoutError, BlockingIOError):
                received = None
            except OSError as error:
                raise ConnectionClosed(f"connection lost: {error.strerror or type(error).__name__}") from error
            if received == 0:
                raise ConnectionClosed("the peer closed the connection")
            if time.monotonic() > deadline:
                cause = "timeout: the peer sent no data or was too slow"
                raise IdleTooLong(cause) if self._start == self._end else ConnectionClosed(cause)
            if received is None and self._association.server.stopping.is_set():
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
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
