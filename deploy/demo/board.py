"""The live table of the demo: a line for each study, from its arrival to its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from db.overview import PENDING_STATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from db.overview import StudyLine

STYLES = {"reported": "green", "failed": "red", "not_reportable": "yellow", "running": "cyan"}


class Board:
    """The studies of the database as they stood at the last look."""

    def __init__(self) -> None:
        self._lines: Sequence[StudyLine] = ()

    def update(self, lines: Sequence[StudyLine]) -> None:
        """Take a new look."""
        self._lines = lines

    @property
    def all_ended(self) -> bool:
        """Whether there are studies, and none has a report still to come."""
        return bool(self._lines) and not any(line.state in PENDING_STATES for line in self._lines)

    @property
    def all_reported(self) -> bool:
        """Whether every study has its report, or a lasting reason why it can have none."""
        return bool(self._lines) and all(line.state in ("reported", "not_reportable") for line in self._lines)

    def table(self) -> Table:
        """The oldest first; no patient's name, because the studies may be real ones."""
        table = Table("study", "modality", "state", "basis or reason", title="studies", title_justify="left")
        for line in reversed(self._lines):
            about = line.report.basis if line.report else line.detail or ""
            table.add_row(str(line.id)[:8], line.modality, line.state, about, style=STYLES.get(line.state, ""))
        return table
