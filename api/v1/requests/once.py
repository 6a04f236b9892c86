"""Answer a POST once: a repeated request with the same Idempotency-Key gets the first one's answer.

The answer is stored in the transaction of the changes, so that it exists if and only if they do.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Header, Request
from fastapi.responses import JSONResponse

from api.errors import ApiError, ErrorCode, Problem
from db.access import idempotency
from db.access.idempotency import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

    from api.access.authenticate import Caller

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]+$",
        description="Random text of the client: for 24 hours, a request with the same key and body is answered again"
        " and not carried out again.",
    ),
]


def answer(
    request: Request,
    caller: Caller,
    key: str | None,
    make: Callable[[], BaseModel],
    *,
    status: int = 201,
    again: Callable[[], BaseModel] | None = None,
) -> JSONResponse:
    """Return the response to a POST: of *make*, or of the earlier request with the same *key*.

    The body must have been read by `api.v1.bodies.json_body`. *make* works in the caller's session. Its answer is
    stored, so it must hold no patient data; if it does, *again* makes the answer to a repeated request. Raises ApiError
    409 while the earlier request is being answered, and 422 if it was another one.
    """
    if key is None:
        return _answered(caller, make().model_dump(mode="json"), status)
    digest = _digest(request)
    who = str(caller.principal)
    try:
        earlier = idempotency.earlier(caller.session, who, key, digest)
    except idempotency.KeyInUse as error:
        raise _problem(409, ErrorCode.IDEMPOTENCY_KEY_IN_USE, error) from error
    except idempotency.KeyReused as error:
        raise _problem(422, ErrorCode.IDEMPOTENCY_KEY_REUSED, error) from error
    if earlier is not None:
        body = earlier.body if again is None else again().model_dump(mode="json")
        return _answered(caller, body, earlier.status, {"Idempotency-Replayed": "true"})
    body = make().model_dump(mode="json")
    idempotency.store(caller.session, who, key, digest, Answer(status, body if again is None else {}))
    return _answered(caller, body, status)


def _answered(caller: Caller, body: Any, status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    caller.access.status = status
    return JSONResponse(body, status, headers)


def _digest(request: Request) -> str:
    body: str = request.state.body_sha256
    return hashlib.sha256(f"{request.method} {request.url.path}?{request.url.query}\n{body}".encode()).hexdigest()


def _problem(status: int, code: ErrorCode, error: Exception) -> ApiError:
    hint = "an Idempotency-Key belongs to one request: see docs/api.md#repeated-requests"
    return ApiError(status, Problem(error=code, message=str(error), hint=hint))
