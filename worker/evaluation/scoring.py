"""Score written reports against reference reports: figures with intervals, as tables and JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rich.table import Table

from worker.evaluation import grounding_figures, planted_errors
from worker.evaluation.grounding_figures import GroundedReport
from worker.evaluation.text_metrics import FIGURES, Interval, Pair, bootstrap, f1_by_finding, support_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from db.reports.grounds import Grounds

CaseT = TypeVar("CaseT")
#: Figures in the table by group, and their short names.
_BY_GROUP = {
    "strict_f1": "strict F1",
    "finding_f1": "finding F1",
    "laterality": "side",
    "normality": "normal",
    "exact_set": "exact set",
    "hallucinated": "invented",
    "right findings marked": "right, marked",
}


@dataclass(frozen=True, slots=True)
class Written:
    """A written report, and the reports quoted in its prompt, best first."""

    text: str
    quoted: Sequence[str] = ()
    #: What its findings rest on; None if that was not measured.
    grounds: Grounds | None = None


@dataclass(frozen=True, slots=True)
class Measured(Generic[CaseT]):
    """A case and its reference report; *group*, usually the modality, splits the table."""

    case: CaseT
    reference: str
    group: str


@dataclass(slots=True)
class Result:
    """Figures of a run, for all cases and by group."""

    cases: int
    figures: dict[str, Interval]
    groups: dict[str, dict[str, float]]
    findings: dict[str, tuple[float, int]]
    support: dict[str, float]
    error_recall: dict[str, tuple[float, int]]
    #: What the written findings rest on; empty without grounds.
    grounding: dict[str, float] = field(default_factory=dict)
    #: The same studies reported again with other prompts (worker.evaluation.controls); empty if that was not asked.
    controls: dict[str, float] = field(default_factory=dict)
    #: Reasons of the cases without a report.
    failed: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return plain values, None for nan."""
        plain: dict[str, Any] = _without_nan(asdict(self))
        return plain

    def tables(self) -> list[Table]:
        """Return all tables: figures, figures by group, each finding, detected planted errors, grounds, controls."""
        findings = Table("finding", "cases", "strict F1")
        for name, (score, count) in sorted(self.findings.items(), key=lambda row: row[1][0]):
            findings.add_row(name, str(count), _show(score))
        planted = Table("planted error", "planted", "detected")
        for name, (share, count) in self.error_recall.items():
            planted.add_row(name, str(count), _show(share))
        others = {"written findings rest on": self.grounding, "reported again": self.controls}
        return [
            self.table(),
            self.group_table(),
            findings,
            planted,
            *(_table(*one) for one in others.items() if one[1]),
        ]

    def table(self) -> Table:
        """Return the figures of all cases."""
        table = Table("figure", "all", "95 % interval", title=f"{self.cases} cases (rule-F1)")
        for name, interval in self.figures.items():
            table.add_row(name, _show(interval.value), f"{_show(interval.low)} to {_show(interval.high)}")
        for name, value in self.support.items():
            table.add_row(name, _show(value), "")
        return table

    def group_table(self) -> Table:
        """Return a line for each group with the figures that fit 80 columns; the JSON has all."""
        table = Table("", *_BY_GROUP.values())
        for group, figures in self.groups.items():
            table.add_row(group, *(_show(figures.get(name, math.nan)) for name in _BY_GROUP))
        return table


def evaluate(
    cases: Iterable[Measured[CaseT]],
    write: Callable[[CaseT], Written],
    *,
    failures: tuple[type[Exception], ...] = (),
) -> Result:
    """Score the reports that *write* returns; a case that raises one of *failures* counts as an empty report."""
    pairs, groups, quoted, failed, grounded = [], [], [], [], []
    for item in cases:
        try:
            written = write(item.case)
        except failures as error:
            failed.append(str(error))
            written = Written("")
        pair = Pair.of(item.reference, written.text)
        if written.grounds:
            grounded.append((item.group, GroundedReport(written.grounds, pair.wanted, written.quoted)))
        pairs.append(pair)
        groups.append(item.group)
        quoted.append(written.quoted)
    result = _result(pairs, groups, quoted, failed)
    for group, own in result.groups.items():
        own.update(grounding_figures.marks([report for name, report in grounded if name == group]))
    reports = [report for _, report in grounded]
    return replace(result, grounding=grounding_figures.figures(reports)) if reports else result


def _result(
    pairs: Sequence[Pair], groups: Sequence[str], quoted: Sequence[Sequence[str]], failed: Sequence[str]
) -> Result:
    by_group = {
        name: [p for p, group in zip(pairs, groups, strict=True) if group == name] for name in sorted(set(groups))
    }
    return Result(
        cases=len(pairs),
        figures={name: bootstrap(figure, pairs) for name, figure in FIGURES.items()},
        groups={name: {f: figure(part) for f, figure in FIGURES.items()} for name, part in by_group.items()},
        findings=f1_by_finding(pairs),
        support={f"support@{k}": support_at(quoted, pairs, k) for k in (1, 3)} if any(quoted) else {},
        error_recall=planted_errors.recall([pair.reference for pair in pairs]),
        failed=list(failed),
    )


def _table(title: str, figures: Mapping[str, float]) -> Table:
    table = Table(title, "")
    for name, value in figures.items():
        table.add_row(name, str(value) if isinstance(value, int) else _show(value))
    return table


def _show(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
