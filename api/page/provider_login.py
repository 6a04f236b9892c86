"""Login of people at the identity provider: the way there, and the way back with a code."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from api.access.access import of_request
from api.access.authenticate import COOKIE as SESSION
from api.access.authenticate import changing, failed
from api.access.provider import VALID_SECONDS, Attempt, Provider
from api.errors import ApiError, Forbidden, NotFound, Unauthorized
from api.page.login import destination, login_page, with_cookie
from api.page.templating import templates
from db.access import keys, page_sessions
from db.access.principals import Principal

log = structlog.get_logger()

#: Cookie of an attempt; with TLS no other host, and none without TLS, can set it for this one.
COOKIE, SECURE_COOKIE = "prelim_login", "__Host-prelim_login"
#: Characters of a code: none has a fixed length, RFC 6749 asks providers for short ones.
Code = Annotated[str | None, Query(max_length=4000)]
Short = Annotated[str | None, Query(max_length=400)]

router = APIRouter(include_in_schema=False)


@router.get("/login/provider")
def begin(request: Request, to: Annotated[str, Query()] = "/") -> Response:
    """Lead the browser to the identity provider."""
    provider: Provider = request.app.state.provider
    if not provider.is_configured:
        raise NotFound("no identity provider is configured for logins", "log in with a key")
    session = request.cookies.get(SESSION)
    attempt = Attempt.begun(destination(to), keys.digest(session) if session else "")
    response = RedirectResponse(provider.address(attempt), 303)
    # Lax: the way back is a navigation from the provider's site.
    secure = _is_secure(request)
    response.set_cookie(
        _name(request), attempt.cookie, max_age=VALID_SECONDS, httponly=True, samesite="lax", secure=secure
    )
    return response


@router.get("/login/callback")
def end(request: Request, state: Short = None, code: Code = None, iss: Short = None, error: Short = None) -> Response:
    """Begin a session for the named person in place of the browser's earlier one, or show the form with the reason."""
    access = of_request(request)
    access.action = "login"
    try:
        attempt = Attempt.of_cookie(request.cookies.get(_name(request), ""))
        person = _person(request, attempt, state or "", code, iss, refused=error is not None)
    except ApiError as problem:
        if isinstance(problem, Unauthorized):
            failed(request)
        response = login_page(request, "/", problem=problem.problem.message, status=problem.status)
    else:
        with changing(request) as session:
            begun = page_sessions.begin(session, person=person)
            page_sessions.end_of_digest(session, attempt.earlier)
            access.principal, access.status = person, 200
        log.info("login.accepted", person=person.name)
        # No redirect: the cookie of a session is not sent with a navigation that another site began.
        page = templates.TemplateResponse(request, "logged_in.html", {"to": destination(attempt.to)})
        response = with_cookie(request, page, str(begun))
    response.delete_cookie(_name(request), httponly=True, samesite="lax", secure=_is_secure(request))
    return response


def _person(
    request: Request, attempt: Attempt, state: str, code: str | None, issuer: str | None, *, refused: bool
) -> Principal:
    """Return the person; raises ApiError. The state is checked first: all else may come from another site."""
    provider: Provider = request.app.state.provider
    if not provider.is_configured:
        raise NotFound("no identity provider is configured for logins", "log in with a key")
    attempt.check(state)
    if refused or not code:
        raise Unauthorized("the identity provider refused the login")
    person = provider.person(attempt, code, issuer)
    if not person.scopes:
        raise Forbidden("the account has no scope of Prelim", "ask the operator of the identity provider")
    return person


def _name(request: Request) -> str:
    return SECURE_COOKIE if _is_secure(request) else COOKIE


def _is_secure(request: Request) -> bool:
    return request.url.scheme == "https"
