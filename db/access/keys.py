"""Bearer keys of the API: shown once when created, stored as SHA-256."""

from __future__ import annotations

import hashlib
import secrets
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Text, bindparam, case, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from db.access.principals import READ, SCOPES, Principal, expanded
from db.errors import PrelimError
from db.models import ApiKey
from db.session import compiled

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy import ColumnElement, CursorResult
    from sqlalchemy.orm import Session

#: Identifies the string to people and to secret scanners.
PREFIX = "prelim_"
#: Bytes: 256 random bits cannot be guessed, so that SHA-256 is enough and no slow password hash is needed.
RANDOM_BYTES = 32
#: Kind of a principal that is the holder of a key.
KIND = "key"


class KeyNameTaken(PrelimError):
    """Raised when a key with this name exists, revoked or not."""


class UnknownKey(PrelimError):
    """Raised when no valid key has this name."""


class UnknownScope(PrelimError):
    """Raised when a key is created with an unknown scope."""


class ListedKey(NamedTuple):
    """A key without its text; *state* is valid, expired or revoked."""

    name: str
    scopes: list[str]
    ae_titles: list[str] | None
    state: str
    created_at: dt.datetime
    expires_at: dt.datetime | None


def create(
    session: Session,
    name: str,
    scopes: Sequence[str] = (READ,),
    *,
    ae_titles: Collection[str] | None = None,
    replace: bool = False,
    valid_for: dt.timedelta | None = None,
) -> str:
    """Create the key *name* and return its text, which is not stored.

    *replace* replaces an existing key of this name, revoked or not; without *valid_for* the key does not expire. With
    *ae_titles* it shows only studies of which these sent every object. Raises KeyNameTaken or UnknownScope.
    """
    _refuse_unknown(scopes)
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    expiry = None if valid_for is None else func.clock_timestamp() + valid_for
    restriction = None if ae_titles is None else sorted(ae_titles)
    new = {"key_sha256": digest(key), "scopes": list(scopes), "ae_titles": restriction, "expires_at": expiry}
    row = insert(ApiKey).values(name=name, **new)
    if replace:
        fresh = new | {"created_at": func.clock_timestamp(), "revoked_at": None}
        row = row.on_conflict_do_update(index_elements=["name"], set_=fresh)
    else:
        row = row.on_conflict_do_nothing(index_elements=["name"])
    if session.scalar(row.returning(ApiKey.id)) is None:
        raise KeyNameTaken(f"key {name!r} exists: choose another name, or replace it")
    return key


def verify(session: Session, key: str) -> Principal | None:
    """Return the holder of *key*, None if it is unknown, revoked or expired.

    It is looked up by its digest, so that the time taken reveals nothing about the key.
    """
    found = _of_digest()(session, wanted=digest(key)).one_or_none()
    return None if found is None else holder(found.name, found.scopes, found.ae_titles)


@lru_cache(maxsize=1)
def _of_digest() -> Callable[..., CursorResult[Any]]:
    columns = ApiKey.name, ApiKey.scopes, ApiKey.ae_titles
    return compiled(select(*columns).where(ApiKey.key_sha256 == bindparam("wanted", None, Text), *valid()))


def holder(name: str, scopes: Sequence[str], ae_titles: Sequence[str] | None) -> Principal:
    """Return the principal of a key."""
    return Principal(KIND, name, expanded(scopes), None if ae_titles is None else frozenset(ae_titles))


def listed(session: Session) -> list[ListedKey]:
    """Return every key, the oldest first, with its state now."""
    state = case(
        (ApiKey.revoked_at.is_not(None), "revoked"),
        (ApiKey.expires_at <= func.clock_timestamp(), "expired"),
        else_="valid",
    )
    columns = ApiKey.name, ApiKey.scopes, ApiKey.ae_titles, state, ApiKey.created_at, ApiKey.expires_at
    return [ListedKey(*row) for row in session.execute(select(*columns).order_by(ApiKey.created_at))]


def valid() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions on a key that can be used now."""
    unexpired = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.clock_timestamp())
    return ApiKey.revoked_at.is_(None), unexpired


def revoke(session: Session, name: str) -> None:
    """Revoke the key *name* from the next request on, and with it its sessions; raises UnknownKey."""
    revoked = session.scalar(
        update(ApiKey)
        .where(ApiKey.name == name, ApiKey.revoked_at.is_(None))
        .values(revoked_at=func.clock_timestamp())
        .returning(ApiKey.id)
    )
    if revoked is None:
        raise UnknownKey(f"unknown or revoked key {name!r}")


def digest(text: str) -> str:
    """Return the SHA-256 under which a secret of 256 random bits is stored."""
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_unknown(scopes: Sequence[str]) -> None:
    unknown = sorted(set(scopes) - {READ, *SCOPES})
    if unknown:
        raise UnknownScope(f"unknown scope {', '.join(unknown)}: expected {', '.join((READ, *SCOPES))}")
