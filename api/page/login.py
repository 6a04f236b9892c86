"""Login form: it stores the API key in a cookie that no script can read."""

import re
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from api.access.authenticate import COOKIE, Database, holder, same_origin
from api.errors import ApiError
from api.page.templating import templates

log = structlog.get_logger()

#: One shift. The key itself is valid until an operator revokes it.
COOKIE_SECONDS = 12 * 3600
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
    return _form(request, to, problem=None, status=200)


@router.post("/login", dependencies=[Depends(same_origin)])
def login(
    request: Request, session: Database, key: Annotated[str, Form()], to: Annotated[str, Form()] = "/"
) -> Response:
    """Set the cookie, or show the form with the reason for the rejection."""
    try:
        key_holder = holder(session, key.strip())
    except ApiError as error:
        log.warning("login.rejected", reason=error.problem.error)
        return _form(request, to, problem=error.problem.message, status=error.status)
    log.info("login.accepted", key=key_holder.name)
    response = RedirectResponse(destination(to), 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, key.strip(), max_age=COOKIE_SECONDS, httponly=True, samesite="strict", secure=secure)
    return response


@router.post("/logout", dependencies=[Depends(same_origin)])
def logout() -> Response:
    """Delete the cookie."""
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def _form(request: Request, to: str, *, problem: str | None, status: int) -> Response:
    return templates.TemplateResponse(request, "login.html", {"to": destination(to), "problem": problem}, status)
