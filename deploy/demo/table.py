"""The live table of the demo: a line for each study, from its arrival to its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from db.operations.overview import PENDING_STATES
from worker.findings.labeller import present
from worker.prompting.report import split_report

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping, Sequence

    from db.operations.overview import StudyLine

STYLES = {"reported": "green", "failed": "red", "not_reportable": "yellow", "running": "cyan"}


class Board:
    """The studies of the database as they stood at the last look; *truths* are true reports by Study Instance UID.

    Without truths the studies may be patients': then neither reports nor names are shown.
    """

    def __init__(self, truths: Mapping[str, str] | None = None) -> None:
        self._truths = truths or {}
        self._lines: Sequence[StudyLine] = ()
        self._reports: Mapping[uuid.UUID, str] = {}

    def update(self, lines: Sequence[StudyLine], reports: Mapping[uuid.UUID, str]) -> None:
        """Take a new look; *reports* are the texts by the study's id."""
        self._lines, self._reports = lines, reports

    @property
    def all_ended(self) -> bool:
        """Whether there are studies, and none has a report still to come."""
        return bool(self._lines) and not any(line.state in PENDING_STATES for line in self._lines)

    @property
    def all_reported(self) -> bool:
        """Whether every study has its report, or a lasting reason why it can have none."""
        return bool(self._lines) and all(line.state in ("reported", "not_reportable") for line in self._lines)

    def table(self) -> Table:
        """The oldest first; truth and report beside one another where the truth is known."""
        beside = ("truth", "report", "findings") if self._truths else ("basis or reason",)
        table = Table("study", "modality", "state", *beside, title="studies", title_justify="left", show_lines=True)
        for line in reversed(self._lines):
            about = self._beside(line) if self._truths else (_about(line),)
            table.add_row(str(line.id)[:8], line.modality, line.state, *about, style=STYLES.get(line.state, ""))
        return table

    def _beside(self, line: StudyLine) -> tuple[str, str, str]:
        truth, report = self._truths.get(line.study_instance_uid, ""), self._reports.get(line.id)
        if report is None:
            return _impression(truth), line.detail or "", ""
        return (
            _impression(truth),
            _impression(report),
            "as drawn" if _findings(truth) == _findings(report) else "differ",
        )


def _about(line: StudyLine) -> str:
    return line.report.basis if line.report else line.detail or ""


def _impression(report: str) -> str:
    findings, impression = split_report(report)
    return impression or findings


def _findings(report: str) -> set[tuple[str, str, str]]:
    """As the ruler compares them: finding, side, zone."""
    return {label.strict for label in present(report)}
