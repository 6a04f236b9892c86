"""Read the body of a request after its caller was authorized, so that others cannot fill the memory."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from fastapi import Request  # noqa: TC002 - FastAPI reads it at run time
from pydantic import BaseModel, ValidationError

from api.errors import ApiError, ErrorCode, Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def json_body(model: type[BaseModel], guard: Any, max_bytes: int) -> Callable[..., Awaitable[Any]]:
    """Return the dependency that reads a *model*; *guard* is a Caller annotation, checked before the body is read.

    Raises ApiError 413 beyond *max_bytes*, 415 for another content type and 422 for an invalid body.
    """

    async def read(request: Request, _: guard) -> BaseModel:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise _problem(415, ErrorCode.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json")
        body = await _bounded(request, max_bytes)
        request.state.body_sha256 = hashlib.sha256(body).hexdigest()
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            # The input is not repeated.
            message = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise _problem(422, ErrorCode.INVALID_REQUEST, message) from None

    # With annotations as strings FastAPI could not resolve the guard.
    read.__annotations__["_"] = guard
    return read


def described(model: type[BaseModel]) -> dict[str, Any]:
    """Return the part of the OpenAPI document that describes a body read by `json_body`."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    # Its "$defs" become components of the document (api.v1.document).
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _bounded(request: Request, max_bytes: int) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise _problem(413, ErrorCode.BODY_TOO_LARGE, f"the body is larger than {max_bytes} bytes")
    return body


def _problem(status: int, code: ErrorCode, message: str) -> ApiError:
    return ApiError(status, Problem(error=code, message=message, hint="see /docs for the body"))
