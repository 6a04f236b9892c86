"""Login form: it begins a session and stores its random text in a cookie that no script can read."""

import re
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from api.access.access import of_request
from api.access.authenticate import COOKIE, Database, failed, same_origin
from api.page.templating import templates
from db.access import page_sessions

log = structlog.get_logger()

#: Targets of the redirect after a login; any other could redirect to another site.
_TARGETS = re.compile(r"/(quarantine|studies/[0-9a-f-]{36})?")

#: Bytes; a key and a path of the page have 50 each.
MAX_FIELD_BYTES = 1024

# Forms are the only request bodies accepted without a key.
router = APIRouter(
    include_in_schema=False, form_limits={"max_fields": 2, "max_files": 0, "max_part_size": MAX_FIELD_BYTES}
)


def destination(to: str) -> str:
    """Return the page to open after the login: *to* if it is a page of this server, else the work list."""
    return to if _TARGETS.fullmatch(to) else "/"


@router.get("/login")
def login_form(request: Request, to: Annotated[str, Query()] = "/") -> Response:
    """Show the login form."""
    return login_page(request, to, problem=None, status=200)


@router.post("/login", dependencies=[Depends(same_origin)])
def login(
    request: Request, session: Database, key: Annotated[str, Form()], to: Annotated[str, Form()] = "/"
) -> Response:
    """Begin a session in place of the browser's earlier one, or show the form with the reason for the rejection."""
    access = of_request(request)
    access.action = "login"
    begun = page_sessions.begin(session, key=key.strip())
    principal = None if begun is None else page_sessions.verify(session, begun)
    if begun is None or principal is None:
        failed(request)
        access.status = 401
        return login_page(request, to, problem="unknown, revoked or expired API key", status=401)
    page_sessions.end(session, request.cookies.get(COOKIE, ""))
    access.principal, access.status = principal, 303
    log.info("login.accepted", key=principal.name)
    return with_cookie(request, RedirectResponse(destination(to), 303), begun)


def with_cookie(request: Request, response: Response, text: str) -> Response:
    """Return *response* with the cookie of the session *text*."""
    seconds = int(page_sessions.VALID_FOR.total_seconds())
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, text, max_age=seconds, httponly=True, samesite="strict", secure=secure)
    return response


@router.post("/logout", dependencies=[Depends(same_origin)])
def logout(request: Request, session: Database) -> Response:
    """End the session and delete the cookie."""
    access = of_request(request)
    access.action, access.status = "logout", 303
    text = request.cookies.get(COOKIE, "")
    access.principal = page_sessions.verify(session, text)
    page_sessions.end(session, text)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def login_page(request: Request, to: str, *, problem: str | None, status: int) -> Response:
    """Return the login form, with the reason of a failed login."""
    provider = request.app.state.provider.is_configured
    context = {"to": destination(to), "problem": problem, "provider": provider}
    return templates.TemplateResponse(request, "login.html", context, status)
