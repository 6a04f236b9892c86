"""Answers to requests that a client may send twice, stored in the transaction of their changes."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import delete, func, select

from db.errors import PrelimError
from db.models import IdempotentRequest

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

#: Time for which an answer is given again.
KEPT_FOR = dt.timedelta(hours=24)
#: First number of the advisory locks, so that no other subject uses them.
LOCKS = 1_400


class KeyInUse(PrelimError):
    """Raised when a request with the same key is being answered."""


class KeyReused(PrelimError):
    """Raised when the key was used for another request."""


class Answer(NamedTuple):
    """Stored answer to a request."""

    status: int
    body: dict[str, Any]


def earlier(session: Session, principal: str, key: str, request_sha256: str) -> Answer | None:
    """Return the answer to an earlier request with this key, and reserve the key until the transaction ends.

    Raises KeyInUse while a request with the key is being answered, and KeyReused if the key belongs to another request.
    """
    lock = func.pg_try_advisory_xact_lock(LOCKS, func.hashtext(f"{principal}\n{key}"))
    if not session.scalar(select(lock)):
        raise KeyInUse("a request with this Idempotency-Key is being answered: repeat it in a moment")
    found = session.scalars(
        select(IdempotentRequest).where(
            IdempotentRequest.principal == principal, IdempotentRequest.key == key, ~_is_old()
        )
    ).one_or_none()
    if found is None:
        return None
    if found.request_sha256 != request_sha256:
        raise KeyReused("this Idempotency-Key was used for another request: choose a new one")
    return Answer(found.status, found.answer)


def store(session: Session, principal: str, key: str, request_sha256: str, answer: Answer) -> None:
    """Store the answer to a request whose key `earlier` has reserved; delete the answers of more than a day ago."""
    session.execute(delete(IdempotentRequest).where(_is_old()))
    session.add(
        IdempotentRequest(
            principal=principal, key=key, request_sha256=request_sha256, status=answer.status, answer=answer.body
        )
    )
    session.flush()


def _is_old() -> Any:
    return IdempotentRequest.created_at < func.clock_timestamp() - KEPT_FOR
