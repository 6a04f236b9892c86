"""Route of the events of all studies, as server-sent events."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.sse import EventSourceResponse, format_sse_event

from api.access.authenticate import Worklist, is_still_valid
from api.errors import ApiError, ErrorCode, Problem
from api.v1.feed import Feed, Place
from db.access.principals import Principal
from db.operations.history import Published

#: Seconds without an event after which a comment is sent, and between two checks of the credential.
HEARTBEAT_SECONDS, CHECK_SECONDS = 15.0, 60.0
#: Greatest position in a column of type bigint, in digits.
POSITION = r"^[0-9]{1,18}$"

# Not in the OpenAPI document: tools that call every operation would wait for the end of the stream.
router = APIRouter(prefix="/v1", include_in_schema=False)


@router.get("/events")
async def events(
    request: Request, caller: Worklist, last_event_id: Annotated[str | None, Header(pattern=POSITION)] = None
) -> EventSourceResponse:
    """Stream the events of the studies that the caller may see; holds no database connection."""
    feed: Feed = request.app.state.feed
    last = None if last_event_id is None else int(last_event_id)
    if feed.is_full(str(caller.principal)):
        message, hint = "the caller has too many streams", "close the others"
        raise ApiError(429, Problem(error=ErrorCode.TOO_MANY_REQUESTS, message=message, hint=hint))
    return EventSourceResponse(_texts(request, feed, caller.principal, last))


async def _texts(request: Request, feed: Feed, principal: Principal, last: int | None) -> AsyncIterator[bytes]:
    """Yield the encoded events that *principal* may see, and comments; ends when its credential does."""
    checked = time.monotonic()
    with feed.stream(str(principal)):
        source = feed.events(last)
        following = asyncio.ensure_future(anext(source))
        try:
            while True:
                done, _ = await asyncio.wait([following], timeout=HEARTBEAT_SECONDS)
                if time.monotonic() - checked >= CHECK_SECONDS:
                    if not await asyncio.to_thread(is_still_valid, request):
                        return
                    checked = time.monotonic()
                if done:
                    text = _encoded(following.result(), principal)
                    following = asyncio.ensure_future(anext(source))
                else:
                    text = format_sse_event(comment="no event")
                if text:
                    yield text
        finally:
            following.cancel()


def _encoded(event: Published | Place, principal: Principal) -> bytes:
    """Return an event in the format of server-sent events; empty for a study that *principal* may not see."""
    if isinstance(event, Place):
        # Without data it is no event for the client, which keeps the id: it resumes here even before its first event.
        kind, data = ("resync", "{}") if event.missed else (None, None)
        return format_sse_event(event=kind, data_str=data, id=str(event.position))
    if principal.ae_titles is not None and not principal.ae_titles.issuperset(event.ae_titles):
        return b""
    body = {"study_id": str(event.study_id), "detail": event.detail, "at": event.at.isoformat()}
    return format_sse_event(event=event.kind, data_str=json.dumps(body), id=str(event.position))
