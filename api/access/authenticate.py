"""Who may read: a bearer key in the header, or in the cookie the login form has set."""

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

_bearer = HTTPBearer(auto_error=False, description="A key made by an operator.")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, description="Set by the login form of the page.")


def _session(request: Request) -> Iterator[Session]:
    with transaction(request.app.state.settings.database()) as session:
        yield session


#: Ends before the answer is sent, so that a slow reader holds no connection of the database.
Database = Annotated[Session, Depends(_session, scope="function")]


def reader(
    session: Database,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    cookie: Annotated[str | None, Security(_cookie)],
) -> keys.KeyHolder:
    """Who asks, if they may read; raises Unauthorized, Forbidden."""
    key = cookie if bearer is None else bearer.credentials
    if not key:
        raise Unauthorized("this needs a key")
    return holder(session, key)


Reader = Depends(reader, scope="function")


def holder(session: Session, key: str) -> keys.KeyHolder:
    """Who holds *key*, if it lets them read; raises Unauthorized, Forbidden."""
    found = keys.verify(session, key)
    if found is None:
        raise Unauthorized("this key is not in force")
    if "read" not in found.scopes:
        raise Forbidden("this key may not read", "ask an operator for a key with the scope `read`")
    return found


def same_origin(request: Request) -> None:
    """Refuse a form sent from another site's page; raises Forbidden.

    Every browser of today says where a request comes from (Fetch Metadata); older ones send Origin with a POST. What
    sends neither is no browser, and carries no cookie it does not own.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        allowed = site in {"same-origin", "none"}
    else:
        allowed = origin is None or URL(origin).netloc == request.headers.get("host")
    if not allowed:
        raise Forbidden("this form was sent from another site", "open the login page yourself and try again")
