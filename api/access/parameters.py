"""Refuse unknown query parameters: a misspelt filter must not show every study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.errors import ApiError, ErrorCode, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import Request


#: Query parameters by endpoint: a route itself cannot be hashed.
_KNOWN: dict[Any, frozenset[str]] = {}


def refuse_unknown(request: Request) -> None:
    """Raise ApiError 422 for a query parameter that the route does not have, or for one given twice.

    The name is not repeated, because a caller may have put a patient's name there.
    """
    given = [name for name, _ in request.query_params.multi_items()]
    known = _known(request.scope["route"])
    if not set(given) <= known:
        raise _invalid(f"unknown query parameter: expected {', '.join(sorted(known)) or 'none'}")
    if len(set(given)) < len(given):
        raise _invalid("a query parameter is given more than once")


def _invalid(message: str) -> ApiError:
    return ApiError(422, Problem(error=ErrorCode.INVALID_REQUEST, message=message, hint="see /docs for the parameters"))


def _known(route: Any) -> frozenset[str]:
    if route.endpoint not in _KNOWN:
        _KNOWN[route.endpoint] = frozenset(_names(route.dependant))
    return _KNOWN[route.endpoint]


def _names(dependant: Any) -> Iterator[str]:
    for parameter in dependant.query_params:
        yield parameter.alias
    for dependency in dependant.dependencies:
        yield from _names(dependency)
