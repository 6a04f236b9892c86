"""Answer errors: a JSON body for programs, a page for browsers."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import PROBLEM_JSON, UNREACHABLE, ApiError, ErrorCode, Problem, Unauthorized
from api.page.templating import templates
from api.v1.requests.conditional import STREAM
from db.logs import frames

log = structlog.get_logger()

#: Paths answered with JSON; all others with a page.
API_PREFIX = "/v1"
#: Read by a program, which must not be led to the login form.
METRICS = "/metrics"


def install(app: FastAPI) -> None:
    """Register a handler for every kind of error."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    for unreachable in UNREACHABLE:
        app.add_exception_handler(unreachable, _no_database)
    app.add_middleware(LastResort)


def _answer(request: Request, status: int, problem: Problem, headers: dict[str, str] | None = None) -> Response:
    if request.url.path.startswith(API_PREFIX):
        body = problem.model_copy(update={"status": status}).model_dump(mode="json", exclude_none=True)
        return JSONResponse(body, status, headers, media_type=PROBLEM_JSON)
    return templates.TemplateResponse(request, "error.html", {"problem": problem}, status, headers)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - Starlette's signature is wider than its calls
    if isinstance(error, Unauthorized) and not request.url.path.startswith((API_PREFIX, METRICS)):
        # The path only, and login checks it again: a query may hold anything.
        return RedirectResponse(f"/login?{urlencode({'to': request.url.path})}", 303)
    return _answer(request, error.status, error.problem, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - see above
    hint = "see /docs for the endpoints"
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    problem = Problem(error=code, message=str(error.detail), hint=hint)
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_methods(request.app.routes, request.url.path)))
    return _answer(request, error.status_code, problem, headers)


def _methods(routes: Iterable[Any], path: str) -> set[str]:
    """Return the methods of all routes of a path: Starlette names those of the first one."""
    found: set[str] = set()
    for route in routes:
        # An included router holds the routes of its own.
        inner = getattr(route, "original_router", None)
        if inner is not None:
            found |= _methods(inner.routes, path)
        elif getattr(route, "methods", None) and route.path_regex.match(path):
            found |= route.methods
    return found | {"HEAD"} if "GET" in found and path != STREAM else found


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - see above
    # The input is not repeated: it may be a misplaced patient name.
    message = "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())
    problem = Problem(error=ErrorCode.INVALID_REQUEST, message=message, hint="see /docs for the accepted values")
    return _answer(request, 422, problem)


async def _no_database(request: Request, error: Exception) -> Response:
    if not isinstance(error, OperationalError):  # db.session logs an outage once
        log.error("database.unreachable", error=type(error).__name__)
    return unavailable(request.scope)


def unavailable(scope: Scope) -> Response:
    """Return the response to a request that needs the database, which is unreachable."""
    hint = "try again in a moment; if it persists, ask an operator to run `prelim status`"
    problem = Problem(error=ErrorCode.UNAVAILABLE, message="database unreachable", hint=hint)
    return _answer(Request(scope), 503, problem, {"Retry-After": "5"})


def not_acceptable(scope: Scope) -> Response:
    """Return the response to a client that accepts none of the media types of its path."""
    hint = "see /docs for the media type of the path, and send it in Accept, or */*"
    message = "the response is not of a media type that the request accepts"
    return _answer(Request(scope), 406, Problem(error=ErrorCode.NOT_ACCEPTABLE, message=message, hint=hint))


class LastResort:
    """ASGI middleware that answers an unexpected error with 500 and logs its type and location but not its text.

    Starlette's own handler re-raises it to the server, which logs the text, and that may contain a patient's name.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; an exception of the application is not re-raised."""
        try:
            await self.app(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the boundary of the process: one bad request must not end it
            # The route and not the path, in which a caller can put a patient's name.
            route = getattr(scope.get("route"), "path", None)
            log.error(  # noqa: TRY400 - no text
                "request.failed", error=type(error).__name__, route=route, frames=frames(error)
            )
            hint = "report it to the operator: the log of `prelim serve` shows its location"
            problem = Problem(error=ErrorCode.INTERNAL_ERROR, message="internal server error", hint=hint)
            await _answer(Request(scope), 500, problem)(scope, receive, send)
