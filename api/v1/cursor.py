"""Encode a position in the work list as an opaque string."""

import base64
import binascii
import datetime as dt
import uuid

from db.operations.overview import Position


def encode(position: Position) -> str:
    """Return *position* as URL-safe text."""
    plain = f"{position.received_at.isoformat()} {position.study_id}"
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def decode(text: str) -> Position:
    """Return the position in *text*; raises ValueError if it is not from `encode`."""
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
        received_at, study_id = plain.split(" ")
        position = Position(dt.datetime.fromisoformat(received_at), uuid.UUID(study_id))
    except (binascii.Error, ValueError) as error:
        raise ValueError("invalid cursor") from error
    if position.received_at.tzinfo is None:
        raise ValueError("invalid cursor")
    return position
