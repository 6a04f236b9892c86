from __future__ import annotations

import asyncio
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.v1.requests.cursor import Cursors
from api.v1.requests.work_list import filters
from db.operations.filters import Filters, Position, words

POSITIONS = st.builds(
    Position, st.datetimes(timezones=st.just(dt.UTC)), st.uuids(), st.integers(min_value=-1, max_value=2)
)
OWN = Cursors("secret", "studies", "queued")


@given(POSITIONS)
def test_position_is_encoded_to_the_microsecond(position: Position) -> None:
    assert OWN.decode(OWN.encode(position)) == position


@given(POSITIONS)
def test_cursor_needs_no_escaping_in_a_url(position: Position) -> None:
    assert OWN.encode(position).replace("-", "").replace("_", "").isalnum()


@given(st.text())
def test_any_other_text_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="invalid cursor"):
        OWN.decode(text)


@given(POSITIONS)
def test_cursor_of_another_list_or_installation_is_rejected(position: Position) -> None:
    for other in (Cursors("secret", "studies", "failed"), Cursors("other", "studies", "queued")):
        with pytest.raises(ValueError, match="other filters"):
            OWN.decode(other.encode(position))


@given(POSITIONS)
def test_equal_times_of_two_zones_have_the_same_cursor(position: Position) -> None:
    time = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
    first, second = (
        asyncio.run(filters(received_since=one, received_before=one))
        for one in (time, time.astimezone(dt.timezone(dt.timedelta(hours=2))))
    )

    text = Cursors("secret", "studies", first).encode(position)

    assert Cursors("secret", "studies", second).decode(text) == position


@given(st.text(max_size=64))
def test_search_for_any_text_is_a_list_of_words(text: str) -> None:
    assert all(word.isalnum() for word in words(text))


def test_filters_without_a_restriction_leave_out_canaries_only() -> None:
    (condition,) = Filters().conditions()
    assert "FROM canaries" in str(condition)
