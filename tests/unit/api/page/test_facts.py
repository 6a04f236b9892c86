"""Status of a report in sentences, and what stops its use."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

from api.page.facts import NO_REPORT, facts, obstacle, read_before
from db.models import ReportFeedback
from db.states import DisplayedState, FeedbackKind

NOON = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)


def line(**changes: Any) -> Any:
    values = {
        "state": DisplayedState.REPORTED,
        "patient_name": "Doe^Jane",
        "patient_id": "P-17",
        "patient_sex": "",
        "patient_birth_date": "19610203",
        "accession_number": "A-1",
        "not_read": [],
    }
    return SimpleNamespace(**values | changes)


def report(**changes: Any) -> Any:
    values = {"version": 2, "created_at": NOON, "basis": "1 image", "outdated": False, "hold": None, "sentences": None}
    return SimpleNamespace(**values | {"limitations": []} | changes)


HOLD = SimpleNamespace(held_by="key other", held_at=NOON, reason="wrong patient?")


def test_facts_name_patient_version_hold_and_identities() -> None:
    plain = facts(line(), report(), [line()], "key room")
    changed = facts(
        line(patient_name="Roe^Ann"), report(version=3, outdated=True, hold=HOLD), [line(), line()], "person ann"
    )

    assert plain[:2] == ["Patient: Doe, Jane · P-17 · 1961-02-03 · A-1.", "You read as key room."]
    assert plain[2].startswith("Version 2, written 2026-11-28")
    assert changed[:3] == [
        "Patient: Roe, Ann · P-17 · 1961-02-03 · A-1.",
        "You read as person ann.",
        "2 identities are under the Study Instance UID.",
    ]
    assert "Images arrived after the report was written." in changed
    assert any(fact.startswith("Held by key other since 2026-11-28") for fact in changed)
    assert facts(line(), None, [], "")[-1] == NO_REPORT
    turned = facts(line(patient_name="\u202eDoe"), None, [], "")[0]
    assert turned.startswith("Patient: Doe · P-17"), "no order is turned"


def test_facts_name_values_that_were_too_long_to_be_read() -> None:
    found = facts(line(patient_name="", not_read=["patient_name", "study_description"]), None, [], "")

    assert found[0].startswith("Patient: Name too long, not read · P-17")
    assert "Not read, because too long in a header: Patient's Name, Study Description." in found
    assert facts(line(patient_name=""), None, [], "")[0].startswith("Patient: No name")


def test_held_studies_stop_the_use_of_their_drafts() -> None:
    assert obstacle(line(), report()) == ""
    assert obstacle(line(), report(hold=HOLD)) == "the study is held"
    assert obstacle(line(state=DisplayedState.HELD), report()) == "the study is held"
    assert "Cancelled: no newer report is written." in facts(line(state=DisplayedState.CANCELLED), report(), [], "")


def test_reader_of_an_older_version_has_not_seen_the_newer_one() -> None:
    acts = [
        ReportFeedback(version=number, kind=FeedbackKind.OPENED, text="", author=author)
        for number, author in ((1, "key me"), (2, "key other"))
    ]

    assert read_before(acts, "key me", 2) == 1
    assert read_before(acts, "key me", 1) is None
    assert read_before(acts, "key other", 2) is None
    assert read_before(acts, "key third", 2) is None
