"""Table of the demo: reference report and report side by side, and nothing of patients."""

from __future__ import annotations

import io
import uuid
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from deploy.demo.table import DemoTable

REFERENCE = "Findings: Small left pleural effusion. The heart is normal. Impression: Small left pleural effusion."


def line(state: str = "reported", uid: str = "2.25.1", **changes: Any) -> Any:
    report = SimpleNamespace(basis="1 of 1 views") if state == "reported" else None
    fields = {"id": uuid.UUID(int=1), "study_instance_uid": uid, "modality": "DX", "state": state, "detail": None}
    return SimpleNamespace(**(fields | {"report": report} | changes))


def shown(table: DemoTable) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(table.render())
    return console.file.getvalue()  # type: ignore[attr-defined]


def table_of(study: Any, report: str | None = None, references: dict[str, str] | None = None) -> DemoTable:
    table = DemoTable({"2.25.1": REFERENCE} if references is None else references)
    table.update([study], {} if report is None else {study.id: report})
    return table


def test_correct_report_is_shown_beside_its_reference() -> None:
    text = shown(table_of(line(), "Findings: The heart is not enlarged. Impression: Small effusion on the left."))

    assert "Small left pleural effusion." in text
    assert "Small effusion on the left." in text
    assert "as drawn" in text


def test_report_with_another_side_is_marked() -> None:
    assert "differ" in shown(table_of(line(), "Findings: Small right pleural effusion. Impression: Effusion."))


def test_pending_study_shows_its_reference_and_no_comparison() -> None:
    text = shown(table_of(line("running")))

    assert "Small left pleural effusion." in text
    assert "as drawn" not in text
    assert "differ" not in text


def test_failed_study_shows_its_detail() -> None:
    assert "the checkpoint is a demo" in shown(table_of(line("failed", detail="the checkpoint is a demo")))


def test_study_without_a_reference_shows_only_its_basis() -> None:
    text = shown(table_of(line(), "Findings: Secret. Impression: Secret.", references={}))

    assert "Secret" not in text
    assert "1 of 1 views" in text


def test_studies_that_arrive_together_are_told_apart() -> None:
    ids = [uuid.UUID("01a22165-0000-7000-8000-00000000000" + digit) for digit in "12"]
    table = DemoTable({})
    table.update([line(id=one, uid=f"2.25.{one.int}") for one in ids], {})

    assert all(str(one)[-8:] in shown(table) for one in ids)
