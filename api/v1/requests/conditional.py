"""Responses to GET under /v1: a strong ETag, 304 for an unchanged one, 406 for one that the client cannot read.

HEAD is answered as GET is, without the body.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

from api.v1.requests.acceptance import accepts

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Paths with entity tags.
PREFIX = "/v1/"
#: A stream of events has no end: HEAD would wait for it.
STREAM = "/v1/events"
#: Read by probes, which restart or report a process by the status: whatever they accept.
PROBED = ("/v1/live", "/v1/health")
OK = 200


def etag(body: bytes) -> str:
    """Return the strong entity tag of a body."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def matches(given: str | None, tag: str) -> bool:
    """Return whether If-None-Match lists *tag* (RFC 9110 section 13.1.2, weak comparison)."""
    held = [each.removeprefix("W/") for each in _listed(given)]
    return tag in held or held == ["*"]


def is_current(given: str, tag: str) -> bool:
    """Return whether If-Match lists *tag* (RFC 9110 section 13.1.1: strong comparison, no weak tag matches)."""
    held = _listed(given)
    return tag in held or held == ["*"]


def _listed(given: str | None) -> list[str]:
    return [each.strip() for each in (given or "").split(",")]


class Conditional:
    """ASGI middleware for JSON responses; those with an ETag of their own pass. *not_acceptable* answers with 406."""

    def __init__(self, app: ASGIApp, not_acceptable: Callable[[Scope], Response]) -> None:
        self.app = app
        self._not_acceptable = not_acceptable

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
        tagged = _Tagged(scope["path"], Headers(scope=scope), plain)
        await self.app(scope, receive, tagged.send)
        if tagged.refused:
            await self._not_acceptable(scope)(scope, receive, plain)


def _without_body(send: Send) -> Send:
    async def sender(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return sender


class _Tagged:
    """One response: held until its body is complete, if it is tagged; dropped if the client does not accept it."""

    def __init__(self, path: str, headers: Headers, send: Send) -> None:
        self._tag = path.startswith(PREFIX) and path != STREAM
        self._given = headers.get("if-none-match")
        self._accept = None if path in PROBED else ",".join(headers.getlist("accept"))
        self._send = send
        self._start: Message | None = None
        self.refused = False

    async def send(self, message: Message) -> None:
        """Send a part of the response, with its tag."""
        if message["type"] == "http.response.start" and self._tag and message["status"] == OK:
            kind = Headers(raw=message["headers"]).get("content-type", "")
            self.refused = not accepts(self._accept, kind)
            if kind.startswith("application/json"):
                self._start = message
                return
        if self.refused:
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
