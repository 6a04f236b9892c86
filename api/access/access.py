"""Access of one request to patient data: who, and to which studies; the audit log stores it."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from db.access.audit_log import Entry

if TYPE_CHECKING:
    import uuid

    from fastapi import Request
    from starlette.types import Scope

    from db.access.principals import Principal

#: Parts of paths that are stored: numbers and random ids.
_NUMBER = re.compile(r"\d{1,10}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: First status of an answer without data; parameters that were accepted have known names.
ERROR = 400


@dataclass(slots=True)
class Access:
    """Filled while a request is handled."""

    #: As the caller sent it: HEAD is handled as GET.
    method: str = "GET"
    #: True once a guard has begun to authenticate it.
    guarded: bool = False
    principal: Principal | None = None
    studies: list[uuid.UUID] = field(default_factory=list)
    #: Status of the response to a request that changes data; its route must set it.
    status: int | None = None
    #: True once the row with this status is stored, with the changes.
    committed: bool = False
    #: Set for a login and a logout, whose routes are open.
    action: str | None = None

    @property
    def recorded(self) -> bool:
        """True if the audit log has a row of the request."""
        return self.guarded or self.action is not None

    def entry(self, scope: Scope, status: int) -> Entry:
        """Return the row of the request, which is answered with *status*."""
        template = getattr(scope.get("route"), "path", "")
        parameters = scope.get("path_params", {})
        return Entry(
            at=dt.datetime.now(dt.UTC),
            action=self.action or _action(self.method, parameters),
            status=status,
            principal=str(self.principal or ""),
            address=(scope.get("client") or ("",))[0],
            route=f"{self.method} {template}",
            studies=list(dict.fromkeys(self.studies)),
            detail=_numbers(parameters) | (_names(scope) if status < ERROR else {}),
        )


def _action(method: str, parameters: dict[str, Any]) -> str:
    if method == "POST":
        return "create"
    return "read" if parameters else "query"


def _numbers(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) for name, value in parameters.items() if _NUMBER.fullmatch(str(value))}


def _names(scope: Scope) -> dict[str, Any]:
    """Return the names of the query parameters, whose values may be patient data."""
    names = sorted({name for name, _ in parse_qsl(scope.get("query_string", b"").decode("latin-1"))})
    return {"parameters": names} if names else {}


def of_request(request: Request) -> Access:
    """Return the access of a request."""
    access: Access = request.state.access
    return access
