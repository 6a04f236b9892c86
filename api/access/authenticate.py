"""Turn the credential of a request into a principal: a key, a person's token, or the session in a cookie.

Every route that is not open to all has one parameter made by `needs`, which names the scope that it requires.
"""

import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import structlog
from fastapi import Depends, Request, Security
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session
from starlette.datastructures import URL

from api.access.access import Access, of_request
from api.access.parameters import refuse_unknown
from api.access.tokens import is_token
from api.errors import UNREACHABLE, ApiError, Forbidden, Unauthorized
from db.access import keys, page_sessions
from db.access.principals import Principal
from db.session import statements, transaction

log = structlog.get_logger()

COOKIE = "prelim_session"

_bearer = HTTPBearer(auto_error=False, description="API key created by an operator, or token of the identity provider.")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, description="Session, begun by the login form of the page.")


@contextmanager
def changing(request: Request) -> Iterator[Session]:
    """Transaction of a request that changes data, which is committed together with its audit row, or neither."""
    request.app.state.rate_limits.connect()  # reads a file: not within the transaction
    with transaction(request.app.state.settings.database()) as session:
        yield session
        # Reached unless the route has raised an error.
        _commit_with_row(request, session)


def _reading(request: Request) -> AbstractContextManager[Session]:
    """Session of a GET, in which each statement is its own transaction; its begin and its end never wait."""
    return statements(request.app.state.settings.database())


def _session(request: Request) -> Iterator[Session]:
    with changing(request) if request.method == "POST" else _reading(request) as session:
        yield session


def _commit_with_row(request: Request, session: Session) -> None:
    """Commit the changes of a request together with its row in the audit log, or neither."""
    access = of_request(request)
    if access.status is None:
        raise UnrecordedChange(request.scope["route"].path)
    request.app.state.recorder.commit(session, access.entry(request.scope, access.status))
    access.committed = True


#: Ends before the response is sent, so that a slow client holds no database connection.
Database = Annotated[Session, Depends(_session, scope="function")]


class UnrecordedChange(Exception):
    """Raised when a route that changes data has not set the status of its audit row: an error in its code."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Authenticated caller of one request: what its queries are restricted to, and where its reads are recorded."""

    session: Session
    principal: Principal
    access: Access

    def disclose(self, studies: Iterable[uuid.UUID]) -> None:
        """Record that the response has data of these studies."""
        self.access.studies.extend(studies)


def _identified(
    request: Request, session: Session, bearer: HTTPAuthorizationCredentials | None, cookie: str | None
) -> Caller:
    """Return the caller; raises Unauthorized."""
    access = of_request(request)
    access.guarded = True
    try:
        found = access.principal = _verified(request, session, bearer, cookie)
    except Unauthorized:
        if bearer is not None or cookie:
            failed(request)
        raise
    request.app.state.rate_limits.count_request(found)
    return Caller(session, found, access)


def failed(request: Request) -> None:
    """Log an invalid credential with its address; raises ApiError 429 if the address sent too many."""
    address, limits = request.client.host if request.client else "", request.app.state.rate_limits
    if limits.log_budget.allows():
        log.warning("login.rejected", address=address)
    limits.count_failed_login(address)


def _verified(
    request: Request, session: Session, bearer: HTTPAuthorizationCredentials | None, cookie: str | None
) -> Principal:
    found: Principal | None
    if bearer is not None and is_token(bearer.credentials):
        found = request.app.state.tokens.verify(bearer.credentials)
    elif bearer is not None:
        found = keys.verify(session, bearer.credentials)
    elif cookie:
        found = page_sessions.verify(session, cookie)
    else:
        raise Unauthorized("API key required")
    if found is None:
        raise Unauthorized("unknown, revoked or expired API key" if bearer else "the session has ended: log in again")
    return found


def _credential(request: Request) -> tuple[HTTPAuthorizationCredentials | None, str | None]:
    """Return the bearer credential and the cookie of a request, as the parameters of a guard."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    is_bearer = text and scheme.lower() == "bearer"
    bearer = HTTPAuthorizationCredentials(scheme=scheme, credentials=text) if is_bearer else None
    return bearer, request.cookies.get(COOKIE)


def authorize(request: Request, scope: str) -> None:
    """Raise ApiError unless the caller of an open route without patient data has *scope*; only refusals are audited."""
    with _reading(request) as session:
        _authorized(scope, request, session, *_credential(request))
    of_request(request).guarded = False


def is_still_valid(request: Request) -> bool:
    """Return whether the credential of a request that is still being answered is valid."""
    try:
        with _reading(request) as session:
            _verified(request, session, *_credential(request))
    except (ApiError, *UNREACHABLE):
        return False
    return True


def needs(scope: str) -> Any:
    """Return the dependency of a route that requires *scope*; it raises Unauthorized, Forbidden or ApiError 422."""
    return Depends(_guard(scope), scope="function")


def _guard(scope: str) -> Callable[..., AsyncIterator[Caller]]:
    # One dependency for session, caller and scope: each one, and each end of one, would be another change of threads.
    async def guard(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        cookie: Annotated[str | None, Security(_cookie)],
    ) -> AsyncIterator[Caller]:
        if request.method == "POST":
            async with contextmanager_in_threadpool(changing(request)) as session:
                yield await run_in_threadpool(_authorized, scope, request, session, bearer, cookie)
        else:
            with _reading(request) as session:
                yield await run_in_threadpool(_authorized, scope, request, session, bearer, cookie)

    # For the test that walks all routes.
    guard.scope = scope  # type: ignore[attr-defined]
    return guard


def _authorized(
    scope: str,
    request: Request,
    session: Session,
    bearer: HTTPAuthorizationCredentials | None,
    cookie: str | None,
) -> Caller:
    caller = _identified(request, session, bearer, cookie)
    if scope not in caller.principal.scopes:
        hint = f"ask an operator for a key with the scope `{scope}`"
        raise Forbidden(f"API key without the scope `{scope}`", hint)
    refuse_unknown(request)
    if request.method != "POST":
        # Give the connection back: requests that wait for a thread must not hold those that running ones wait for.
        session.commit()
    return caller


Worklist = Annotated[Caller, needs("worklist")]
Reports = Annotated[Caller, needs("reports")]
Images = Annotated[Caller, needs("images")]
Questions = Annotated[Caller, needs("questions")]
Predictions = Annotated[Caller, needs("predictions")]
Feedback = Annotated[Caller, needs("feedback")]
Identity = Annotated[Caller, needs("identity")]
Admin = Annotated[Caller, needs("admin")]


def same_origin(request: Request) -> None:
    """Raise Forbidden for a form sent from another site's page.

    Current browsers send Sec-Fetch-Site (Fetch Metadata), older ones Origin with a POST. A client that sends neither
    is not a browser and carries no cookie of another user.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        allowed = site in {"same-origin", "none"}
    else:
        allowed = origin is None or URL(origin).netloc == request.headers.get("host")
    if not allowed:
        raise Forbidden("form sent from another site", "open the login page of this server and try again")
