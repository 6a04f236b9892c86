"""Encode a position in a list as an opaque string, signed together with the filters of the list."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hmac
import json
import time
import uuid
from dataclasses import asdict, is_dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from db.models import CursorSecret
from db.operations.filters import Position

if TYPE_CHECKING:
    from collections.abc import Hashable

    from sqlalchemy import URL
    from sqlalchemy.orm import Session

#: Bytes of the signature: it protects from a cursor of another list, and a forged one reveals nothing.
SIGNATURE_BYTES = 16


#: Seconds for which the secret is kept: it changes only if the database is replaced by another one.
KEPT_SECONDS = 60.0
#: Secrets by database, each with the time at which it was read.
_secrets: dict[URL, tuple[str, float]] = {}


class Cursors:
    """Cursors of one list: they are invalid for other filters, another order or another installation."""

    def __init__(self, secret: str, *listed: Any) -> None:
        """*listed* is all that determines the list: its name, filters, order, and the caller's restriction."""
        self._key = hmac.digest(secret.encode(), json.dumps(listed, default=_plain).encode(), "sha256")

    def encode(self, position: Position) -> str:
        """Return *position* as URL-safe text."""
        plain = f"{position.received_at.isoformat()} {position.study_id} {position.priority}".encode()
        return base64.urlsafe_b64encode(self._signature(plain) + plain).decode().rstrip("=")

    def decode(self, text: str) -> Position:
        """Return the position in *text*; raises ValueError if it is not from `encode` of this list."""
        try:
            whole = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError("invalid cursor") from error
        signature, plain = whole[:SIGNATURE_BYTES], whole[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(plain)):
            raise ValueError("invalid cursor, or one of a list with other filters")
        received_at, study_id, priority = plain.decode().split(" ")
        return Position(dt.datetime.fromisoformat(received_at), uuid.UUID(study_id), int(priority))

    def _signature(self, plain: bytes) -> bytes:
        return hmac.digest(self._key, plain, "sha256")[:SIGNATURE_BYTES]


def _plain(value: object) -> object:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def of_list(session: Session, *listed: Hashable) -> Cursors:
    """Return the cursors of a list, signed with the secret of this database; *listed* as for `Cursors`."""
    return _cursors(_secret(session), listed)


# Open work lists ask for the same list again and again.
@lru_cache(maxsize=64)
def _cursors(secret: str, listed: tuple[Hashable, ...]) -> Cursors:
    return Cursors(secret, *listed)


def _secret(session: Session) -> str:
    database = session.get_bind().engine.url
    secret, read_at = _secrets.get(database, ("", float("-inf")))
    if time.monotonic() - read_at > KEPT_SECONDS:
        secret = session.scalars(select(CursorSecret.secret)).one()
        _secrets[database] = secret, time.monotonic()
    return secret
