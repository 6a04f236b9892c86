"""The table of the demo: truth and report beside one another, and nothing of patients."""

from __future__ import annotations

import io
import uuid
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from deploy.demo.table import Board

TRUTH = "Findings: Small left pleural effusion. The heart is normal. Impression: Small left pleural effusion."


def line(state: str = "reported", uid: str = "2.25.1", **changes: Any) -> Any:
    report = SimpleNamespace(basis="1 of 1 views") if state == "reported" else None
    fields = {"id": uuid.UUID(int=1), "study_instance_uid": uid, "modality": "DX", "state": state, "detail": None}
    return SimpleNamespace(**(fields | {"report": report} | changes))


def shown(board: Board) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(board.table())
    return console.file.getvalue()  # type: ignore[attr-defined]


def board_of(study: Any, report: str | None = None, truths: dict[str, str] | None = None) -> Board:
    board = Board({"2.25.1": TRUTH} if truths is None else truths)
    board.update([study], {} if report is None else {study.id: report})
    return board


def test_a_right_report_stands_beside_the_truth_in_its_own_words() -> None:
    text = shown(board_of(line(), "Findings: The heart is not enlarged. Impression: Small effusion on the left."))

    assert "Small left pleural effusion." in text
    assert "Small effusion on the left." in text
    assert "as drawn" in text


def test_a_report_with_another_side_is_marked() -> None:
    assert "differ" in shown(board_of(line(), "Findings: Small right pleural effusion. Impression: Effusion."))


def test_before_the_report_the_truth_is_there_and_no_verdict() -> None:
    text = shown(board_of(line("running")))

    assert "Small left pleural effusion." in text
    assert "as drawn" not in text
    assert "differ" not in text


def test_a_study_that_failed_says_why() -> None:
    assert "the checkpoint is a demo" in shown(board_of(line("failed", detail="the checkpoint is a demo")))


def test_of_studies_without_a_truth_only_the_basis_is_shown() -> None:
    text = shown(board_of(line(), "Findings: Secret. Impression: Secret.", truths={}))

    assert "Secret" not in text
    assert "1 of 1 views" in text
