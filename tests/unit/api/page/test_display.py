from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from api.page import display
from db.states import DisplayedState


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Doe^Jane", "Doe, Jane"),
        ("Adams^John Robert Quincy^^Rev.^B.A. M.Div.", "Adams, Rev. John Robert Quincy B.A. M.Div."),
        ("Doe", "Doe"),
        ("^Jane", "Jane"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou"),
        ("=山田^太郎", "山田, 太郎"),
        ("^^^^", ""),
        ("", ""),
        ("A^B^C^D^E^F^G", "A, D B C E"),
    ],
)
def test_a_person_name_is_shown_as_people_write_it(name: str, shown: str) -> None:
    assert display.person(name) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [("19610203", "1961-02-03"), ("1961.02.03", "1961.02.03"), ("1961", "1961"), ("", ""), ("١٩٦١٠٢٠٣", "١٩٦١٠٢٠٣")],
)
def test_a_date_is_shown_with_dashes_and_anything_else_as_it_stands(value: str, shown: str) -> None:
    assert display.date(value) == shown


def test_a_time_names_its_zone() -> None:
    value = dt.datetime(2026, 1, 12, 8, 30, tzinfo=dt.UTC)

    assert display.moment(value) == value.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    assert display.moment(value).split(" ")[-1]


def test_every_displayed_state_has_a_word() -> None:
    assert set(display.STATES) == set(DisplayedState)


def test_every_displayed_state_has_its_look() -> None:
    css = (Path(display.__file__).parent / "static" / "style.css").read_text()

    assert not [state for state in DisplayedState if f".state.{state}" not in css]


def test_blank_lines_are_no_paragraphs() -> None:
    assert display.paragraphs("One.\n\n  Two.\r\nThree.\n") == ["One.", "Two.", "Three."]


def test_provenance_keeps_its_values_when_shown() -> None:
    value = {"window": [40, 400], "note": "größer"}

    assert json.loads(display.pretty(value)) == value
    assert "größer" in display.pretty(value)
