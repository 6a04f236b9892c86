"""Live table of the demo: one line per study, from its arrival to its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from db.states import PENDING, DisplayedState
from worker.findings.labeller import present
from worker.prompting.report_text import split_report

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping, Sequence

    from db.operations.overview import StudyLine

STYLES = {
    DisplayedState.REPORTED: "green",
    DisplayedState.FAILED: "red",
    DisplayedState.NOT_REPORTABLE: "yellow",
    DisplayedState.RUNNING: "cyan",
}


class DemoTable:
    """Studies at the last update; *reference_reports* by Study Instance UID.

    Without reference reports the studies may be of patients, so neither reports nor names are shown.
    """

    def __init__(self, reference_reports: Mapping[str, str] | None = None) -> None:
        self._reference_reports = reference_reports or {}
        self._lines: Sequence[StudyLine] = ()
        self._reports: Mapping[uuid.UUID, str] = {}

    def update(self, lines: Sequence[StudyLine], reports: Mapping[uuid.UUID, str]) -> None:
        """Replace the studies; *reports* are their report texts by study id."""
        self._lines, self._reports = lines, reports

    @property
    def all_ended(self) -> bool:
        """True if there are studies and none is pending."""
        return bool(self._lines) and not any(line.state in PENDING for line in self._lines)

    @property
    def all_reported(self) -> bool:
        """True if every study is reported or not reportable."""
        expected = (DisplayedState.REPORTED, DisplayedState.NOT_REPORTABLE)
        return bool(self._lines) and all(line.state in expected for line in self._lines)

    def render(self) -> Table:
        """Return the table, oldest study first, with reference report and report side by side."""
        columns = ("reference report", "report", "findings") if self._reference_reports else ("basis or reason",)
        table = Table("study", "modality", "state", *columns, title="studies", title_justify="left", show_lines=True)
        for line in reversed(self._lines):
            cells = self._compared(line) if self._reference_reports else (_about(line),)
            # The end: ids begin with their time, which all studies of a demo share.
            table.add_row(str(line.id)[-8:], line.modality, line.state, *cells, style=STYLES.get(line.state, ""))
        return table

    def _compared(self, line: StudyLine) -> tuple[str, str, str]:
        reference, report = self._reference_reports.get(line.study_instance_uid, ""), self._reports.get(line.id)
        if report is None:
            return _impression(reference), line.detail or "", ""
        same = _findings(reference) == _findings(report)
        return _impression(reference), _impression(report), "as drawn" if same else "differ"


def _about(line: StudyLine) -> str:
    return line.report.basis if line.report else line.detail or ""


def _impression(report: str) -> str:
    findings, impression = split_report(report)
    return impression or findings


def _findings(report: str) -> set[tuple[str, str, str]]:
    """Return finding, side and zone of each affirmed finding, as the evaluation compares them."""
    return {label.strict for label in present(report)}
