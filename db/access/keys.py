"""Bearer keys of the API: shown once when created, stored as SHA-256."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import case, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from db.errors import PrelimError
from db.models import ApiKey

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

#: Permissions of a key; each endpoint requires one: to read, and to decide about the identity of a study.
SCOPES = ("read", "identity")
#: Identifies the string to people and to secret scanners.
PREFIX = "prelim_"
#: Bytes: 256 random bits cannot be guessed, so that SHA-256 is enough and no slow password hash is needed.
RANDOM_BYTES = 32


class KeyNameTaken(PrelimError):
    """Raised when a key with this name exists, revoked or not."""


class UnknownKey(PrelimError):
    """Raised when no valid key has this name."""


class UnknownScope(PrelimError):
    """Raised when a key is created with an unknown scope."""


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """Holder of a valid key."""

    id: uuid.UUID
    name: str
    scopes: frozenset[str]


class ListedKey(NamedTuple):
    """A key without its text; *state* is valid, expired or revoked."""

    name: str
    scopes: list[str]
    state: str
    created_at: dt.datetime
    expires_at: dt.datetime | None


def create(
    session: Session,
    name: str,
    scopes: Sequence[str] = ("read",),
    *,
    replace: bool = False,
    valid_for: dt.timedelta | None = None,
) -> str:
    """Create the key *name* and return its text, which is not stored.

    *replace* replaces an existing key of this name, revoked or not; without *valid_for* the key does not expire.
    Raises KeyNameTaken or UnknownScope.
    """
    _refuse_unknown(scopes)
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    expiry = None if valid_for is None else func.clock_timestamp() + valid_for
    new = {"key_sha256": _digest(key), "scopes": list(scopes), "expires_at": expiry}
    row = insert(ApiKey).values(name=name, **new)
    if replace:
        fresh = new | {"created_at": func.clock_timestamp(), "revoked_at": None}
        row = row.on_conflict_do_update(index_elements=["name"], set_=fresh)
    else:
        row = row.on_conflict_do_nothing(index_elements=["name"])
    if session.scalar(row.returning(ApiKey.id)) is None:
        raise KeyNameTaken(f"key {name!r} exists: choose another name, or replace it")
    return key


def verify(session: Session, key: str) -> KeyHolder | None:
    """Return the holder of *key*, None if it is unknown, revoked or expired.

    It is looked up by its digest, so that the time taken reveals nothing about the key.
    """
    digest = _digest(key)
    row = session.scalars(select(ApiKey).where(ApiKey.key_sha256 == digest, *_valid())).one_or_none()
    if row is None or not hmac.compare_digest(row.key_sha256, digest):
        return None
    return KeyHolder(row.id, row.name, frozenset(row.scopes))


def listed(session: Session) -> list[ListedKey]:
    """Return every key, the oldest first, with its state now."""
    state = case(
        (ApiKey.revoked_at.is_not(None), "revoked"),
        (ApiKey.expires_at <= func.clock_timestamp(), "expired"),
        else_="valid",
    )
    rows = session.execute(
        select(ApiKey.name, ApiKey.scopes, state, ApiKey.created_at, ApiKey.expires_at).order_by(ApiKey.created_at)
    )
    return [ListedKey(*row) for row in rows]


def _valid() -> tuple[ColumnElement[bool], ...]:
    unexpired = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.clock_timestamp())
    return ApiKey.revoked_at.is_(None), unexpired


def revoke(session: Session, name: str) -> None:
    """Revoke the key *name* from the next request on; raises UnknownKey."""
    revoked = session.scalar(
        update(ApiKey)
        .where(ApiKey.name == name, ApiKey.revoked_at.is_(None))
        .values(revoked_at=func.clock_timestamp())
        .returning(ApiKey.id)
    )
    if revoked is None:
        raise UnknownKey(f"unknown or revoked key {name!r}")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _refuse_unknown(scopes: Sequence[str]) -> None:
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown:
        raise UnknownScope(f"unknown scope {', '.join(unknown)}: expected {', '.join(SCOPES)}")
