"""The login form: it takes the key once and leaves it in a cookie that no script can read."""

import re
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from api.access.authenticate import COOKIE, Database, holder, same_origin
from api.errors import ApiError
from api.page.templating import templates

log = structlog.get_logger()

#: A shift. The key itself lasts until an operator revokes it.
COOKIE_SECONDS = 12 * 3600
#: Pages of ours one may be sent back to; anything else would let a link lead elsewhere.
_OURS = re.compile(r"/(studies/[0-9a-f-]{36})?")

#: Bytes; a key has 50, an address of ours 50.
LARGEST_FIELD = 1024

# The forms are the only bodies anyone may send without a key.
router = APIRouter(
    include_in_schema=False, form_limits={"max_fields": 2, "max_files": 0, "max_part_size": LARGEST_FIELD}
)


def destination(to: str) -> str:
    """The page to go to after the login: one of ours, or the list."""
    return to if _OURS.fullmatch(to) else "/"


@router.get("/login")
def login_form(request: Request, to: Annotated[str, Query()] = "/") -> Response:
    """The form."""
    return _form(request, to, problem=None, status=200)


@router.post("/login", dependencies=[Depends(same_origin)])
def login(
    request: Request, session: Database, key: Annotated[str, Form()], to: Annotated[str, Form()] = "/"
) -> Response:
    """Set the cookie, or say what is wrong with the key."""
    try:
        who = holder(session, key.strip())
    except ApiError as error:
        log.warning("login.refused", reason=error.problem.error)
        return _form(request, to, problem=error.problem.message, status=error.status)
    log.info("login.accepted", key=who.name)
    response = RedirectResponse(destination(to), 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, key.strip(), max_age=COOKIE_SECONDS, httponly=True, samesite="strict", secure=secure)
    return response


@router.post("/logout", dependencies=[Depends(same_origin)])
def logout() -> Response:
    """Forget the key."""
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def _form(request: Request, to: str, *, problem: str | None, status: int) -> Response:
    return templates.TemplateResponse(request, "login.html", {"to": destination(to), "problem": problem}, status)
