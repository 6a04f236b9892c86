"""Access of one request to patient data: who, and to which studies; the audit log stores it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uuid

    from fastapi import Request

    from db.access.principals import Principal


@dataclass(slots=True)
class Access:
    """Filled while a request is handled."""

    #: True once a guard has begun to authenticate it.
    guarded: bool = False
    principal: Principal | None = None
    studies: list[uuid.UUID] = field(default_factory=list)


def of_request(request: Request) -> Access:
    """Return the access of a request."""
    access: Access = request.state.access
    return access
