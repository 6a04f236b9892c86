"""Plot the figures of an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from worker.evaluation.scoring import Result

#: Width in inches at DPI, which makes 640 pixels; height of a bar, and of the rest.
WIDTH, BAR_HEIGHT, MARGINS = 6.4, 0.2, 1.0
DPI = 100
#: Figures without bars: they can exceed 1, or less is better.
UNPLOTTED = {"edit_distance", "hallucinated"}


def plot(result: Result, path: Path) -> None:
    """Plot bars into a PNG: the figures with their intervals, then strict F1 of each finding, the rarest last."""
    figures = {name: interval for name, interval in result.figures.items() if name not in UNPLOTTED}
    findings = sorted(result.findings.items(), key=lambda row: -row[1][1])
    rows = len(figures), max(len(findings), 1)
    figure = Figure(figsize=(WIDTH, MARGINS + BAR_HEIGHT * sum(rows)), dpi=DPI, layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=rows)
    values = {name: interval.value for name, interval in figures.items()}
    _bars(above, f"{result.cases} cases, 95 % intervals", values)
    low, high = np.array([(interval.low, interval.high) for interval in figures.values()]).T
    above.hlines(np.arange(len(figures)), low, high, color="black")
    _bars(below, "strict rule-F1 by finding (cases)", {f"{name} ({n})": score for name, (score, n) in findings})
    figure.savefig(path)


def _bars(axes: Axes, title: str, values: dict[str, float]) -> None:
    places = np.arange(len(values))
    axes.barh(places, np.nan_to_num(list(values.values())), color="steelblue")
    axes.set_title(title, fontsize="medium", loc="left")
    axes.set_xlim(0, 1)
    axes.set_yticks(places, list(values), fontsize="small")
    axes.invert_yaxis()
    for place, value in enumerate(values.values()):
        if not np.isnan(value):
            # Right of the axes, where no interval is drawn over it.
            axes.text(1.01, place, f"{value:.3f}", fontsize="small", va="center")
