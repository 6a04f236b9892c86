"""Sessions of the page: random rows with an end, so that the browser never holds a key."""

from __future__ import annotations

import datetime as dt
import secrets
from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, func, or_, select, update

from db.access import keys
from db.access.principals import Principal
from db.limits import MAX_SKEW
from db.models import ApiKey, PageSession

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

#: One shift.
VALID_FOR = dt.timedelta(hours=12)
#: Ended sessions are deleted after this time; the audit log has their logins.
KEPT_FOR = dt.timedelta(days=1)
#: Kind of a principal known to the identity provider.
PERSON = "person"


def begin(session: Session, *, key: str | None = None, person: Principal | None = None) -> str | None:
    """Begin a session of the holder of *key*, or of *person*, and return its text, which is not stored.

    Return None if the key is unknown, revoked or expired.
    """
    session.execute(delete(PageSession).where(PageSession.expires_at < func.clock_timestamp() - KEPT_FOR))
    row = PageSession(scopes=[], expires_at=func.clock_timestamp() + VALID_FOR)
    if person is not None:
        row.person, row.scopes = person.name, sorted(person.scopes)
        row.ae_titles = None if person.ae_titles is None else sorted(person.ae_titles)
    elif key is not None:
        holder = select(ApiKey.id).where(ApiKey.key_sha256 == keys.digest(key), *keys.valid())
        row.key_id = session.scalar(holder)
        if row.key_id is None:
            return None
    text = secrets.token_urlsafe(keys.RANDOM_BYTES)
    row.text_sha256 = keys.digest(text)
    session.add(row)
    session.flush()
    return text


def verify(session: Session, text: str) -> Principal | None:
    """Return the principal of a session; None if it is unknown, expired or ended, or its key is no longer valid."""
    found = session.execute(
        select(PageSession.person, PageSession.scopes, PageSession.ae_titles, ApiKey)
        .outerjoin(ApiKey, and_(ApiKey.id == PageSession.key_id, *keys.valid()))
        .where(
            PageSession.text_sha256 == keys.digest(text),
            PageSession.ended_at.is_(None),
            PageSession.expires_at > func.clock_timestamp(),
            # One that began while the database's clock was ahead would be valid for too long.
            PageSession.expires_at <= func.clock_timestamp() + VALID_FOR + MAX_SKEW,
            or_(PageSession.key_id.is_(None), ApiKey.id.is_not(None)),
        )
    ).one_or_none()
    if found is None:
        return None
    if found.ApiKey is not None:
        return keys.holder(found.ApiKey.name, found.ApiKey.scopes, found.ApiKey.ae_titles)
    restriction = None if found.ae_titles is None else frozenset(found.ae_titles)
    return Principal(PERSON, found.person, frozenset(found.scopes), restriction)


def end(session: Session, text: str) -> None:
    """End a session; an unknown or ended one changes nothing."""
    end_of_digest(session, keys.digest(text))


def end_of_digest(session: Session, digest: str) -> None:
    """End the session whose text has this digest, as `end`."""
    session.execute(
        update(PageSession)
        .where(PageSession.text_sha256 == digest, PageSession.ended_at.is_(None))
        .values(ended_at=func.clock_timestamp())
    )
