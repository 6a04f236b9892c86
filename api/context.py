"""Bind the ids of a request to every log line written while it is handled."""

import re
import uuid

from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

#: Study ids are random; no other part of a path is logged, because a caller may put a patient's name there.
STUDY_PATH = re.compile(r"(?:/v1)?/studies/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:/|$)")


class RequestContext:
    """ASGI middleware that binds a new `request_id`, and the `study_id` of the path if it has one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its ids bound; they are unbound afterwards."""
        found = STUDY_PATH.match(scope.get("path", ""))
        study = {"study_id": found[1]} if found else {}
        with bound_contextvars(request_id=uuid.uuid4().hex, **study):
            await self.app(scope, receive, send)
