"""Measure a report writer on cases with reference reports: a table, a JSON and a plot of figures with intervals."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from PIL import Image, ImageDraw
from rich.table import Table

from worker.evaluation import errors
from worker.evaluation.metrics import FIGURES, Interval, Pair, bootstrap, f1_by_finding, support_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

CaseT = TypeVar("CaseT")


@dataclass(frozen=True, slots=True)
class Written:
    """What was written for a case: the text, and the reports that were quoted to the model, best first."""

    text: str
    quoted: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Measured(Generic[CaseT]):
    """A case and its reference report; *group* splits the table, by modality as a rule."""

    case: CaseT
    reference: str
    group: str


@dataclass(slots=True)
class Result:
    """The figures of a run, in all and by group."""

    cases: int
    figures: dict[str, Interval]
    groups: dict[str, dict[str, float]]
    findings: dict[str, tuple[float, int]]
    support: dict[str, float]
    error_recall: dict[str, tuple[float, int]]
    #: Cases for which nothing was written, and why.
    failed: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values; nan as null."""
        plain: dict[str, Any] = _without_nan(asdict(self))
        return plain

    def table(self) -> Table:
        """The figures for a terminal."""
        table = Table("figure", "all", "95 % interval", *self.groups, title=f"{self.cases} cases (rule-F1)")
        for name, interval in self.figures.items():
            parts = [_show(group[name]) for group in self.groups.values()]
            table.add_row(name, _show(interval.value), f"{_show(interval.low)} to {_show(interval.high)}", *parts)
        return table


def evaluate(
    cases: Iterable[Measured[CaseT]],
    write: Callable[[CaseT], Written],
    *,
    failures: tuple[type[Exception], ...] = (),
    progress: Callable[[], None] = lambda: None,
) -> Result:
    """Let *write* report every case and compare; a case that raises one of *failures* counts as an empty report."""
    pairs, groups, quoted, failed = [], [], [], []
    for item in cases:
        try:
            written = write(item.case)
        except failures as error:
            failed.append(str(error))
            written = Written("")
        pairs.append(Pair.of(item.reference, written.text))
        groups.append(item.group)
        quoted.append(written.quoted)
        progress()
    return measure(pairs, groups, quoted, failed)


def measure(
    pairs: Sequence[Pair], groups: Sequence[str], quoted: Sequence[Sequence[str]] = (), failed: Sequence[str] = ()
) -> Result:
    """The figures of pairs already written."""
    by_group = {
        name: [p for p, group in zip(pairs, groups, strict=True) if group == name] for name in sorted(set(groups))
    }
    quoting = any(quoted)
    return Result(
        cases=len(pairs),
        figures={name: bootstrap(figure, pairs) for name, figure in FIGURES.items()},
        groups={name: {f: figure(part) for f, figure in FIGURES.items()} for name, part in by_group.items()},
        findings=f1_by_finding(pairs),
        support={f"support@{k}": support_at(quoted, pairs, k) for k in (1, 3)} if quoting else {},
        error_recall=errors.recall([pair.reference for pair in pairs]),
        failed=list(failed),
    )


#: Size of the plot in pixels.
_WIDTH, _LINE, _NAMES = 640, 20, 220


def plot(result: Result, path: Path) -> None:
    """Strict F1 of each finding as bars, the rarest last."""
    rows = sorted(result.findings.items(), key=lambda row: -row[1][1])
    image = Image.new("RGB", (_WIDTH, _LINE * (len(rows) + 2)), "white")
    pen = ImageDraw.Draw(image)
    pen.text((8, 4), "strict rule-F1 by finding (cases)", "black")
    for number, (name, (score, count)) in enumerate(rows, start=1):
        top = number * _LINE + 6
        pen.text((8, top), f"{name} ({count})", "black")
        width = 0 if math.isnan(score) else score * (_WIDTH - _NAMES - 60)
        pen.rectangle((_NAMES, top, _NAMES + width, top + _LINE - 8), fill="steelblue")
        pen.text((_NAMES + width + 6, top), _show(score), "black")
    image.save(path, optimize=True)


def _show(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
