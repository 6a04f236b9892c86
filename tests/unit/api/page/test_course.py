"""Receipts, versions and other studies on the page of a study."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import ValidationError

from api.page.course import changes, receipts, viewer_link
from db.models import Report, ReportFeedback
from db.operations.overview import Content
from db.settings import Settings
from db.states import FeedbackKind

NOON = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)


@dataclass
class Line:
    study_instance_uid: str = "1.2.3"
    accession_number: str = "A 1/2"
    last_received_at: dt.datetime = NOON
    settled_at: dt.datetime | None = NOON
    settle_reason: str | None = "quiet for 30 s"


def version(number: int, findings: str) -> Report:
    return Report(version=number, findings=findings, impression="Clear.", basis="1 image", created_at=NOON)


def act(kind: FeedbackKind, number: int, text: str = "") -> ReportFeedback:
    return ReportFeedback(version=number, kind=kind, sentence=None, text=text, author="key reader", at=NOON)


def test_receipts_name_the_readers_of_this_version_only() -> None:
    line: Any = Line()
    report: Any = version(2, "")
    found = dict(receipts(line, Content(1, 12, 12), report, [act(FeedbackKind.OPENED, 1)]))
    read = dict(receipts(line, Content(1, 12, 12), report, [act(FeedbackKind.OPENED, 2)]))

    assert found["Received"].startswith("12 objects, the last at 2026-11-28")
    assert found["Complete"].startswith("quiet for 30 s, at ")
    assert found["Read by"] == "no act of a reader is stored"
    assert read["Read by"].startswith("key reader, 2026-11-28")


def test_versions_are_compared_word_by_word_and_with_the_final_text() -> None:
    rows = [version(2, "Small left effusion."), version(1, "Left effusion.")]
    final, newer, first = changes(rows, [act(FeedbackKind.FINAL, 2, "Large left effusion. Clear.")])

    assert final.title.startswith("Final text of key reader")
    assert [(part.change, part.text) for part in final.parts][:2] == [("removed", "Small"), ("added", "Large")]
    assert [(part.change, part.text) for part in newer.parts][:3] == [
        ("removed", "Left"), ("added", "Small left"), ("equal", "effusion."),
    ]  # fmt: skip
    assert (first.title[:9], list(first.parts)) == ("Version 1", [])


def test_link_to_the_viewer_is_encoded_and_absent_without_its_value() -> None:
    line: Any = Line()
    template = "https://pacs/view?study={study_instance_uid}&acc={accession_number}"

    assert viewer_link(template, line) == "https://pacs/view?study=1.2.3&acc=A%201%2F2"
    line.accession_number = ""
    assert viewer_link(template, line) == ""
    assert viewer_link(None, line) == ""


@pytest.mark.parametrize(
    "template", ["javascript:alert({study_instance_uid})", "https://pacs/{patient_name}", "https://pacs/"]
)
def test_other_templates_are_refused(template: str) -> None:
    with pytest.raises(ValidationError):
        Settings(viewer_url=template)
