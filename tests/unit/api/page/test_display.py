from __future__ import annotations

import datetime as dt
import json
import time
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
def test_person_name_is_formatted_for_people(name: str, shown: str) -> None:
    assert display.person(name) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [("19610203", "1961-02-03"), ("1961.02.03", "1961.02.03"), ("1961", "1961"), ("", ""), ("١٩٦١٠٢٠٣", "١٩٦١٠٢٠٣")],
)
def test_date_has_dashes_and_any_other_value_is_unchanged(value: str, shown: str) -> None:
    assert display.date(value) == shown


@pytest.mark.parametrize(
    ("zone", "shown"),
    [
        ("UTC0", "2026-01-12 08:30:00 UTC"),
        ("CET-1", "2026-01-12 09:30:00 CET"),
        ("EST5", "2026-01-12 03:30:00 EST"),
    ],
)
def test_time_is_in_the_servers_zone_and_names_it(monkeypatch: pytest.MonkeyPatch, zone: str, shown: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert display.moment(dt.datetime(2026, 1, 12, 8, 30, tzinfo=dt.UTC)) == shown
    finally:
        monkeypatch.undo()
        time.tzset()


def test_every_displayed_state_has_a_label() -> None:
    assert set(display.STATES) == set(DisplayedState)


def test_every_displayed_state_has_a_style() -> None:
    css = (Path(display.__file__).parent / "static" / "style.css").read_text()

    assert not [state for state in DisplayedState if f".state.{state}" not in css]


def test_blank_lines_are_not_paragraphs() -> None:
    assert display.paragraphs("One.\n\n  Two.\r\nThree.\n") == ["One.", "Two.", "Three."]


def test_formatted_provenance_keeps_its_values() -> None:
    value = {"window": [40, 400], "note": "größer"}

    assert json.loads(display.pretty(value)) == value
    assert "größer" in display.pretty(value)


def test_marks_of_a_study_are_words() -> None:
    names = ["failed", "critical_finding", "unsupported", "laterality"]

    assert display.attention(names) == "no report, critical finding, unsupported finding, laterality"
