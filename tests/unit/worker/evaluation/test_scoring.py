"""Scoring with a function as the report writer: figures, failures and files."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from db.reports.grounds import Grounds
from worker.evaluation.plot import plot
from worker.evaluation.scoring import Measured, Written, evaluate

if TYPE_CHECKING:
    from pathlib import Path


class CannotReadError(Exception):
    pass


CASES = [
    Measured("a", "Small left pleural effusion.", "DX"),
    Measured("b", "Drusen.", "OP"),
    Measured("c", "Normal study.", "OP"),
]
ANSWERS = {"a": "Small left pleural effusion.", "b": "No drusen.", "c": "Normal study."}


def test_figures_cover_all_cases_and_each_group() -> None:
    result = evaluate(CASES, lambda case: Written(ANSWERS[case]))

    assert result.cases == 3
    assert result.groups["DX"]["strict_f1"] == 1
    assert result.groups["OP"]["strict_f1"] == 0
    assert result.findings == {"drusen": (0.0, 1), "pleural effusion": (1.0, 1)}


def test_figures_of_grounds_are_printed_if_reports_have_grounds() -> None:
    result = evaluate(CASES, lambda case: Written(ANSWERS[case], grounds=Grounds([])))

    assert len(result.tables()) == len(evaluate(CASES, lambda case: Written(ANSWERS[case])).tables()) + 1
    assert math.isnan(result.grounding["citation precision"])


def test_a_failed_case_counts_as_an_empty_report() -> None:
    def write(case: str) -> Written:
        if case == "a":
            raise CannotReadError("blank")
        return Written(ANSWERS[case])

    result = evaluate(CASES, write, failures=(CannotReadError,))

    assert result.failed == ["blank"]
    assert result.figures["strict_f1"].value == 0


def test_the_result_is_written_as_json_without_nan_and_as_a_plot(tmp_path: Path) -> None:
    result = evaluate(CASES[2:], lambda case: Written(ANSWERS[case], ["Drusen."]))

    document = json.loads(json.dumps(result.as_json(), allow_nan=False))
    plot(result, tmp_path / "plot.png")

    assert math.isnan(result.figures["strict_f1"].value)
    assert document["figures"]["strict_f1"]["value"] is None
    assert (tmp_path / "plot.png").stat().st_size > 100


def test_the_table_has_a_line_for_each_figure() -> None:
    result = evaluate(CASES, lambda case: Written(ANSWERS[case]))

    assert result.table().row_count == len(result.figures)


def test_tables_of_eight_modalities_fit_80_columns() -> None:
    result = evaluate(CASES, lambda case: Written(ANSWERS[case]))
    figures = {name: interval.value for name, interval in result.figures.items()}
    result = replace(result, groups=dict.fromkeys(("CR", "CT", "DX", "ES", "MR", "OP", "SM", "XC"), figures))
    page = io.StringIO()
    console = Console(width=80, file=page)

    for table in result.tables():
        console.print(table)

    printed = page.getvalue()
    assert "…" not in printed
    for group in result.groups:
        assert group in printed
