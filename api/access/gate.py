"""The gate of all responses: none leaves a route without a guard, and none before its audit row is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from api.access.access import Access
from api.errors import UNREACHABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from api.access.recorder import Recorder

#: Routes open to all; none has patient data.
OPEN = frozenset(
    (
        "/v1/live",
        "/v1/health",
        "/metrics",
        "/login",
        "/login/provider",
        "/login/callback",
        "/logout",
        "/docs",
        "/docs/problems/{code}",
        "/openapi.json",
        "/static/{path:path}",
    )
)
#: First status that is an error, which has no data.
ERROR = 400


class UnguardedRoute(Exception):
    """Raised when a route outside of OPEN answers without having authenticated its caller: an error in its code."""


class Gate:
    """ASGI middleware inside the handler of unexpected errors; *unavailable* answers if no row can be stored."""

    def __init__(self, app: ASGIApp, recorder: Recorder, unavailable: Callable[[Scope], Response]) -> None:
        self.app = app
        self._recorder = recorder
        self._unavailable = unavailable

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; raise UnguardedRoute instead of sending a response without an authorized caller."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        access = Access(method=scope["method"])
        scope.setdefault("state", {})["access"] = access
        passage = _Passage(self, scope, access, send)
        await self.app(scope, receive, passage.send)
        if passage.refused:
            await self._unavailable(scope)(scope, receive, send)

    async def admit(self, scope: Scope, access: Access, status: int) -> bool:
        """Return whether a response with *status* may leave: its row, if it must have one, is stored."""
        route = getattr(scope.get("route"), "path", None)
        if status < ERROR and route is not None and route not in OPEN and not access.guarded:
            raise UnguardedRoute(route)
        if not access.recorded or (access.committed and access.status == status):
            return True
        try:
            await self._recorder.record(access.entry(scope, status))
        except (SQLAlchemyError, *UNREACHABLE):
            return False
        return True


class _Passage:
    """The response of one request on its way through the gate."""

    def __init__(self, gate: Gate, scope: Scope, access: Access, send: Send) -> None:
        self._gate, self._scope, self._access, self._send = gate, scope, access, send
        self.refused = False

    async def send(self, message: Message) -> None:
        """Send a part of the response; a refused one is dropped."""
        if message["type"] == "http.response.start":
            self.refused = not await self._gate.admit(self._scope, self._access, message["status"])
        if not self.refused:
            await self._send(message)
