"""Bearer keys of the API: made once, shown once, kept only as a SHA-256."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from db.errors import PrelimError
from db.models import ApiKey

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

#: What a key may do; each endpoint names the one it asks for.
SCOPES = ("read",)
#: Tells people and secret scanners what the string is.
PREFIX = "prelim_"
#: 256 random bits: nothing to guess, so a plain SHA-256 is enough and no slow password hash is needed.
RANDOM_BYTES = 32


class KeyNameTaken(PrelimError):
    """Raised when a key of that name exists already, revoked or not."""


class UnknownKey(PrelimError):
    """Raised when no key in force goes by that name."""


class UnknownScope(PrelimError):
    """Raised when a key is asked for with a scope that does not exist."""


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """Who showed a valid key."""

    id: uuid.UUID
    name: str
    scopes: frozenset[str]


def create(session: Session, name: str, scopes: Sequence[str] = ("read",), *, replace: bool = False) -> str:
    """Make the key called *name* and return its text, which cannot be read again.

    With *replace* a key of that name, revoked or not, stops working and this one takes its place.
    Raises KeyNameTaken, UnknownScope.
    """
    _refuse_unknown(scopes)
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    new = {"key_sha256": _digest(key), "scopes": list(scopes)}
    row = insert(ApiKey).values(name=name, **new)
    if replace:
        fresh = new | {"created_at": func.clock_timestamp(), "revoked_at": None}
        row = row.on_conflict_do_update(index_elements=["name"], set_=fresh)
    else:
        row = row.on_conflict_do_nothing(index_elements=["name"])
    if session.scalar(row.returning(ApiKey.id)) is None:
        raise KeyNameTaken(f"there is a key called {name!r} already: choose another name, or replace it")
    return key


def verify(session: Session, key: str) -> KeyHolder | None:
    """Who holds this key; None where it is unknown or revoked.

    Found by its digest: how long that takes tells a caller about a hash, never about the key.
    """
    digest = _digest(key)
    row = session.scalars(select(ApiKey).where(ApiKey.key_sha256 == digest, ApiKey.revoked_at.is_(None))).one_or_none()
    if row is None or not hmac.compare_digest(row.key_sha256, digest):
        return None
    return KeyHolder(row.id, row.name, frozenset(row.scopes))


def revoke(session: Session, name: str) -> None:
    """Make the key called *name* worthless from the next request on; raises UnknownKey."""
    revoked = session.scalar(
        update(ApiKey)
        .where(ApiKey.name == name, ApiKey.revoked_at.is_(None))
        .values(revoked_at=func.clock_timestamp())
        .returning(ApiKey.id)
    )
    if revoked is None:
        raise UnknownKey(f"no key in force is called {name!r}")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _refuse_unknown(scopes: Sequence[str]) -> None:
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown:
        raise UnknownScope(f"no such scope: {', '.join(unknown)}; there is {', '.join(SCOPES)}")
