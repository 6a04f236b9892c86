"""Hold back the response of a route without a guard: access is denied unless a route states who may use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.access.access import Access

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Routes open to all; none has patient data.
OPEN = frozenset(
    ("/v1/live", "/v1/health", "/metrics", "/login", "/logout", "/docs", "/openapi.json", "/static/{path:path}")
)
#: First status that is an error, which has no data.
ERROR = 400


class UnguardedRoute(Exception):
    """Raised when a route outside of OPEN answers without having authenticated its caller: an error in its code."""


class Gate:
    """ASGI middleware inside the handler of unexpected errors."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; raise UnguardedRoute instead of sending a response that nobody was authorized for."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        access = Access()
        scope.setdefault("state", {})["access"] = access

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < ERROR:
                _require_guard(scope, access)
            await send(message)

        await self.app(scope, receive, guarded_send)


def _require_guard(scope: Scope, access: Access) -> None:
    """Raise UnguardedRoute for a route that is not open and has no guard."""
    route = getattr(scope.get("route"), "path", None)
    if route is not None and route not in OPEN and not access.guarded:
        raise UnguardedRoute(route)
