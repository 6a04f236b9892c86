"""Send signed requests to an S3 service over connections that are kept open."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import queue
import re
import ssl
import time
import weakref
from typing import IO, TYPE_CHECKING, NamedTuple

from db.storage import signing
from db.storage.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from db.storage.signing import Credentials

#: Seconds without any byte from the service, and without a connection: of an object, and of other requests. Two of the
#: latter are shorter than the time for which a deletion keeps its lock (db.limits.SESSION_LIMIT).
SILENT_SECONDS, SHORT_SECONDS = 15.0, 4.0
#: Bytes per second of an answer, below which the service counts as unavailable, and seconds that each answer has.
MIN_RATE, ANSWER_SECONDS = 128 * 1024, 20.0
#: Connections that are kept open; more are opened when needed.
KEPT = 8
#: Bytes sent or received at a time, and maximum bytes of an answer that is no object.
BLOCK, MAX_TEXT = 1 << 20, 1 << 22
_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,80})</Code>")
_BROKEN = (OSError, http.client.HTTPException)


class Place(NamedTuple):
    """Address of the service; *base* begins every path, and has the bucket unless the host name has it."""

    secure: bool
    host: str
    port: int | None
    base: str

    def __str__(self) -> str:
        """Return host and port, for error texts."""
        return self.host if self.port is None else f"{self.host}:{self.port}"


class Answer(NamedTuple):
    """Status, headers with lower-case names, and body of an answer; the body of an object went to the target."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Error code of S3; empty without one."""
        found = _CODE.search(self.body)
        return found.group(1).decode() if found else ""


class Connections:
    """Open connections to one service; for several threads."""

    def __init__(self, place: Place, credentials: Credentials, authorities: Path | None) -> None:
        self.place = place
        self._credentials = credentials
        self._context = ssl.create_default_context(cafile=authorities) if place.secure else None
        self._kept: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue(KEPT)
        weakref.finalize(self, _close, self._kept)

    def request(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | IO[bytes] = b"",
        target: Callable[[bytes], object] | None = None,
    ) -> Answer:
        """Send one request, a second time if a kept connection had ended; the body of a 200 goes to *target*.

        *body* is a file at its beginning, whose `x-amz-content-sha256` and `Content-Length` are given, or bytes. Raises
        Unavailable if there is no complete answer, or one that says the service fails (5xx, 429, 408).
        """
        path = signing.encoded_path(f"{self.place.base}/{key}")
        encoded = signing.encoded_query(query or {})
        given = {"Host": str(self.place), "x-amz-content-sha256": signing.EMPTY, **(headers or {})}
        silent = SILENT_SECONDS if target is not None or body else SHORT_SECONDS
        for connection, is_last in self._attempts(silent):
            now = dt.datetime.now(dt.UTC)
            signed = signing.signed(self._credentials, method, path, encoded, given, now)
            if not isinstance(body, bytes):
                body.seek(0)
            try:
                # The service may answer, and close the connection, before it has read the body.
                with contextlib.suppress(BrokenPipeError):
                    connection.request(method, f"{path}?{encoded}" if encoded else path, body, signed)
                response = connection.getresponse()
            except _BROKEN as error:
                connection.close()
                if is_last or isinstance(error, TimeoutError):
                    raise self._unavailable(error) from error
                continue
            return self._checked(self._read(connection, response, target))
        raise AssertionError  # _attempts ends with a last one

    def _attempts(self, silent: float) -> Iterator[tuple[http.client.HTTPConnection, bool]]:
        """Yield a kept connection, which the service may have closed, then a new one, which is the last."""
        with contextlib.suppress(queue.Empty):
            kept = self._kept.get_nowait()
            if kept.sock is not None:
                kept.sock.settimeout(silent)
                yield kept, False
        host, port, context = self.place.host, self.place.port, self._context
        if context is None:
            yield http.client.HTTPConnection(host, port, silent, blocksize=BLOCK), True
        else:
            yield http.client.HTTPSConnection(host, port, timeout=silent, context=context, blocksize=BLOCK), True

    def _read(
        self,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
        target: Callable[[bytes], object] | None,
    ) -> Answer:
        text = bytearray()
        is_object = target is not None and response.status == http.client.OK
        take: Callable[[bytes], object] = target if target is not None and is_object else text.extend
        try:
            for block in self._blocks(response, 0 if is_object else MAX_TEXT):
                take(block)
        except BaseException:  # the rest of the answer is still on its way
            connection.close()
            raise
        will_close = response.will_close
        response.close()
        self._keep(connection, will_close=will_close)
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, bytes(text))

    def _blocks(self, response: http.client.HTTPResponse, limit: int) -> Iterator[bytes]:
        try:
            yield from _received(response, limit)
        except _BROKEN as error:
            raise self._unavailable(error) from error

    def _keep(self, connection: http.client.HTTPConnection, *, will_close: bool) -> None:
        try:
            if not will_close:
                self._kept.put_nowait(connection)
                return
        except queue.Full:
            pass
        connection.close()

    def _checked(self, answer: Answer) -> Answer:
        if answer.status >= http.client.INTERNAL_SERVER_ERROR or answer.status in (408, 429):
            raise Unavailable(f"the object storage at {self.place} fails: {answer.status} {answer.code}".rstrip())
        return answer

    def _unavailable(self, error: BaseException) -> Unavailable:
        cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Unavailable(f"the object storage at {self.place} does not answer: {cause}")


def _received(response: http.client.HTTPResponse, limit: int) -> Iterator[bytes]:
    """Yield the body of an answer; raises OSError or HTTPException if it is slow, cut or above a *limit*."""
    deadline = time.monotonic() + ANSWER_SECONDS + (response.length or 0) / MIN_RATE
    received = 0
    while block := response.read1(BLOCK):
        received += len(block)
        if time.monotonic() > deadline:
            raise TimeoutError("it is too slow")
        if limit and received > limit:
            raise http.client.HTTPException("its answer is too long")
        yield block
    if response.length:  # read1 returns nothing at the end of the connection, too
        raise http.client.IncompleteRead(b"", response.length)


def _close(kept: queue.LifoQueue[http.client.HTTPConnection]) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            kept.get_nowait().close()
