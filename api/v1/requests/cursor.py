"""Encode a position in a list as an opaque string, signed together with the filters of the list."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hmac
import json
import uuid
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from db.models import CursorSecret
from db.operations.filters import Position
from db.session import compiled

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import CursorResult
    from sqlalchemy.orm import Session

#: Bytes of the signature: it protects from a cursor of another list, and a forged one reveals nothing.
SIGNATURE_BYTES = 16


class Cursors:
    """Cursors of one list: they are invalid for other filters, another order or another installation."""

    def __init__(self, secret: str, *listed: Any) -> None:
        """*listed* is all that determines the list: its name, filters, order, and the caller's restriction."""
        self._key = hmac.digest(secret.encode(), json.dumps(listed, default=str).encode(), "sha256")

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


def of_list(session: Session, *listed: Any) -> Cursors:
    """Return the cursors of a list, signed with the secret of this database; *listed* as for `Cursors`."""
    return Cursors(_secret()(session).scalar_one(), *listed)


@lru_cache(maxsize=1)
def _secret() -> Callable[..., CursorResult[Any]]:
    return compiled(select(CursorSecret.secret))
