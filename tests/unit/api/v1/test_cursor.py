from __future__ import annotations

import base64
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.v1 import cursor
from db.operations.overview import Position

POSITIONS = st.builds(Position, st.datetimes(timezones=st.just(dt.UTC)), st.uuids())


@given(POSITIONS)
def test_position_is_encoded_to_the_microsecond(position: Position) -> None:
    assert cursor.decode(cursor.encode(position)) == position


@given(POSITIONS)
def test_cursor_needs_no_escaping_in_a_url(position: Position) -> None:
    assert cursor.encode(position).replace("-", "").replace("_", "").isalnum()


@given(st.text())
def test_any_other_text_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="invalid cursor"):
        cursor.decode(text)


def test_time_without_a_zone_is_rejected() -> None:
    text = b"2026-01-12T08:30:00 6c237028-0bcb-4853-a470-08f96d29e851"
    with pytest.raises(ValueError, match="invalid cursor"):
        cursor.decode(base64.urlsafe_b64encode(text).decode())
