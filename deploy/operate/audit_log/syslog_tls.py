"""Send messages by syslog over TLS (RFC 5424, RFC 5425; PS3.15 A.6; IHE ITI-20), one connection for each batch.

Syslog has no acknowledgement: bytes that TLS or the kernel has accepted can be lost with the connection. A batch
therefore ends with a close_notify alert, and counts as received only after the one of the repository, which RFC 5425
section 4.4 requires: its TLS has then read all records before. Not more is known: it may not have stored them yet.
Some repositories only close TCP; PRELIM_AUDIT_SYSLOG_CONFIRMATION decides whether that suffices.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import re
import socket
import ssl
import struct
import termios
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from db.errors import ConfigurationError
from dicom_listener.receive.tls import CIPHERS, no_password, require_readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from db.settings import Settings

PORT = 6514
#: Facility 10 (security and authorization), severity 5 (notice): PS3.15 A.6.
PRIORITY = 85
APPLICATION, MESSAGE_ID = "prelim", "DICOM+RFC3881"
#: Seconds for a connection with its handshake; for a whole batch, so that the sender's turn does not end before.
CONNECT_SECONDS, BATCH_SECONDS = 10.0, 120.0
#: Seconds for the end of the TCP connection after the alert; a reset must arrive within them.
END_SECONDS = 1.0
#: Bytes given to TLS at a time.
PART = 64 << 10
POLL_SECONDS = 0.005
WITHOUT_ALERT = (
    "the repository ended the connection without close_notify, which RFC 5425 requires:"
    " PRELIM_AUDIT_SYSLOG_CONFIRMATION=tcp accepts that"
)


class Unconfirmed(OSError):
    """Raised when it is unknown whether the repository has read a batch."""


class Repository(NamedTuple):
    """Address of an audit record repository, and the files for TLS as the settings have them."""

    host: str
    port: int
    settings: Settings

    def context(self) -> ssl.SSLContext:
        """Return the TLS context, from the files as they are now; raises ConfigurationError."""
        audit = self.settings.audit
        context = ssl.create_default_context() if audit.audit_syslog_ca is None else _context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        try:
            require_readable(audit.audit_syslog_ca, audit.audit_syslog_certificate, audit.audit_syslog_key)
            if audit.audit_syslog_ca is not None:
                context.load_verify_locations(audit.audit_syslog_ca)
            if audit.audit_syslog_certificate is not None:
                context.load_cert_chain(audit.audit_syslog_certificate, audit.audit_syslog_key, no_password)
        except OSError as error:
            raise ConfigurationError(f"a file of PRELIM_AUDIT_SYSLOG_* cannot be loaded: {error}") from error
        return context

    def connect(self) -> ssl.SSLSocket:
        """Return a connection whose certificate is valid for the host; raises OSError, ConfigurationError."""
        context = self.context()
        connection = socket.create_connection((self.host, self.port), CONNECT_SECONDS)
        try:
            return context.wrap_socket(connection, server_hostname=self.host)
        except BaseException:
            connection.close()
            raise

    def send(self, frames: Iterable[bytes], *, seconds: float = BATCH_SECONDS) -> None:
        """Return when the repository has read all *frames*; raises OSError if that is unknown, ConfigurationError."""
        ends = time.monotonic() + seconds
        with self.connect() as tls:
            for part in _parts(frames):
                tls.settimeout(_left(ends))
                tls.sendall(part)
            _confirm(tls, ends, alert=self.settings.audit.audit_syslog_confirmation == "close_notify")


def repository(settings: Settings) -> Repository:
    """Return the configured repository; raises ConfigurationError if there is none."""
    url = settings.audit.audit_syslog_url
    if url is None:
        raise ConfigurationError("PRELIM_AUDIT_SYSLOG_URL is not set: name the audit record repository")
    place = urlsplit(url)
    try:
        port = place.port
    except ValueError:
        raise ConfigurationError("PRELIM_AUDIT_SYSLOG_URL: the port must be at most 65535") from None
    return Repository(str(place.hostname), port or PORT, settings)


def cause(error: Exception) -> str:
    """Return the cause of a failed attempt; none of these texts holds a part of a message."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"the certificate of the repository is refused: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS: {error.reason or type(error).__name__}"
        case ConfigurationError() | Unconfirmed():
            return str(error)
        case TimeoutError():
            return "the repository does not answer or take messages in time"
        case OSError():
            return f"the repository cannot be reached: {error.strerror or type(error).__name__}"
    return type(error).__name__


def _context() -> ssl.SSLContext:
    """Return a context that trusts no authority of the system."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def frame(message: str, at: dt.datetime) -> bytes:
    """Return a message with its RFC 5424 header, counted in octets (RFC 5425 4.3); the byte order mark says UTF-8."""
    time_ = at.astimezone(dt.UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    header = f"<{PRIORITY}>1 {time_}Z {_host()} {APPLICATION} {os.getpid()} {MESSAGE_ID} - "
    body = header.encode("ascii") + b"\xef\xbb\xbf" + message.encode()
    return b"%d %s" % (len(body), body)


def _host() -> str:
    return re.sub(r"[^!-~]", "_", socket.gethostname())[:255] or "-"


def _parts(frames: Iterable[bytes]) -> Iterable[bytes]:
    held = b""
    for each in frames:
        held += each
        if len(held) >= PART:
            yield held
            held = b""
    yield held


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise Unconfirmed("the repository was too slow for the batch")
    return left


def _confirm(tls: ssl.SSLSocket, ends: float, *, alert: bool) -> None:
    """Return when the repository has closed in answer to our close; raises Unconfirmed and other OSErrors.

    Without *alert*, an end of the TCP connection is enough, if no reset shows that bytes were not read.

    A close that the repository began by itself looks the same on the wire. It is excluded in two steps: no alert has
    come when its kernel has all bytes, and the connection then ends without a reset, which unread bytes cause.
    """
    _wait(lambda: not _unacknowledged(tls), ends)
    tls.settimeout(0)
    try:
        while tls.recv(PART):
            pass
        raise Unconfirmed("the repository closed the connection before it had the batch")
    except ssl.SSLWantReadError:
        pass
    tls.settimeout(_left(ends))
    try:
        plain = tls.unwrap()
    except TimeoutError:
        raise Unconfirmed("the repository did not answer the end of the batch with close_notify in time") from None
    except ssl.SSLEOFError:
        if not alert:
            return
        raise Unconfirmed(WITHOUT_ALERT) from None
    with plain:
        plain.shutdown(socket.SHUT_WR)
        plain.settimeout(END_SECONDS)
        try:
            while plain.recv(PART):
                pass
        except TimeoutError:  # it leaves its end open
            pass


def _unacknowledged(connection: socket.socket) -> int:
    """Return the number of bytes that the kernel of the other end did not acknowledge; raises OSError after a reset."""
    # After a reset the number no longer changes.
    if error := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(error, os.strerror(error))
    answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    return int(struct.unpack("i", answer)[0])


def _wait(condition: Callable[[], bool], ends: float) -> None:
    while not condition():
        _left(ends)
        time.sleep(POLL_SECONDS)
