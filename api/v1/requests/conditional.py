"""Entity tags: GET responses under /v1 have a strong ETag, and an unchanged one is answered with 304.

HEAD is answered as GET is, without the body.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Paths with entity tags.
PREFIX = "/v1/"
#: A stream of events has no end: HEAD would wait for it.
STREAM = "/v1/events"
OK = 200


def etag(body: bytes) -> str:
    """Return the strong entity tag of a body."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def matches(given: str | None, tag: str) -> bool:
    """Return whether If-None-Match or If-Match lists *tag* (RFC 9110 section 13.1, weak comparison)."""
    held = [each.strip().removeprefix("W/") for each in (given or "").split(",")]
    return tag in held or held == ["*"]


class Conditional:
    """ASGI middleware for JSON responses; those with an ETag of their own pass."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; HEAD as GET, without the body."""
        if scope["type"] != "http" or scope["method"] not in {"GET", "HEAD"}:
            await self.app(scope, receive, send)
            return
        head = scope["method"] == "HEAD" and scope["path"] != STREAM
        if head:
            # In place: the middleware outside reads the route that is found.
            scope["method"] = "GET"
        plain = _without_body(send) if head else send
        tagged = _Tagged(Headers(scope=scope).get("if-none-match"), plain, tag=scope["path"].startswith(PREFIX))
        await self.app(scope, receive, tagged.send)


def _without_body(send: Send) -> Send:
    async def sender(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return sender


class _Tagged:
    """One response: held until its body is complete, if it is tagged."""

    def __init__(self, given: str | None, send: Send, *, tag: bool) -> None:
        self._given, self._send, self._tag = given, send, tag
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        """Send a part of the response, with its tag."""
        if message["type"] == "http.response.start" and self._tag and _is_json(message):
            self._start = message
            return
        if self._start is not None and message["type"] == "http.response.body":
            start, self._start = self._start, None
            message = self._with_tag(start, message)
            await self._send(start)
        await self._send(message)

    def _with_tag(self, start: Message, message: Message) -> Message:
        """Add the tag to *start*, and make it a 304 if the client has it; return the body to send."""
        headers = MutableHeaders(scope=start)
        if message.get("more_body"):
            return message
        tag = headers.setdefault("ETag", etag(message["body"]))
        headers.setdefault("Vary", "Authorization, Cookie")
        if not matches(self._given, tag):
            return message
        start["status"] = 304
        del headers["content-length"], headers["content-type"]
        return {**message, "body": b""}


def _is_json(message: Message) -> bool:
    kind = Headers(raw=message["headers"]).get("content-type", "")
    return message["status"] == OK and kind.startswith("application/json")
