"""Authenticate a caller by an API key in the Authorization header or in the cookie of the login form."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session
from starlette.datastructures import URL

from api.errors import Forbidden, Unauthorized
from db.access import keys
from db.session import transaction

COOKIE = "prelim_key"

_bearer = HTTPBearer(auto_error=False, description="API key created by an operator.")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, description="API key, set by the login form of the page.")


def _session(request: Request) -> Iterator[Session]:
    with transaction(request.app.state.settings.database()) as session:
        yield session


#: Ends before the response is sent, so that a slow client holds no database connection.
Database = Annotated[Session, Depends(_session, scope="function")]


def _key_holder(
    session: Database,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    cookie: Annotated[str | None, Security(_cookie)],
) -> keys.KeyHolder:
    """Return the holder of the request's key; raises Unauthorized."""
    key = cookie if bearer is None else bearer.credentials
    if not key:
        raise Unauthorized("API key required")
    return _verified(session, key)


_Holder = Annotated[keys.KeyHolder, Depends(_key_holder, scope="function")]


def reader(found: _Holder) -> keys.KeyHolder:
    """Return the holder of the request's key; raises Unauthorized, and Forbidden without the scope `read`."""
    return _with_scope(found, "read")


def decider(found: _Holder) -> keys.KeyHolder:
    """Return the holder of the request's key; raises Unauthorized, and Forbidden without the scope `identity`."""
    return _with_scope(found, "identity")


Reader = Depends(reader, scope="function")
Decider = Depends(decider, scope="function")


def holder(session: Session, key: str) -> keys.KeyHolder:
    """Return the holder of *key*; raises Unauthorized, and Forbidden without the scope `read`."""
    return _with_scope(_verified(session, key), "read")


def _verified(session: Session, key: str) -> keys.KeyHolder:
    found = keys.verify(session, key)
    if found is None:
        raise Unauthorized("unknown, revoked or expired API key")
    return found


def _with_scope(found: keys.KeyHolder, scope: str) -> keys.KeyHolder:
    if scope not in found.scopes:
        raise Forbidden(f"API key without the scope `{scope}`", f"ask an operator for a key with the scope `{scope}`")
    return found


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
