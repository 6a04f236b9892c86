"""Plot training losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

#: Inches of one panel.
WIDTH, HEIGHT = 4.8, 2.6
#: Points of a curve: each is the mean of consecutive steps.
MAX_POINTS = 200


def draw(path: Path, losses: Mapping[str, Sequence[float]]) -> None:
    """Write a PNG with one panel for each stage; the loss axis is logarithmic."""
    figure = Figure(figsize=(WIDTH * len(losses), HEIGHT), layout="constrained")
    panels = figure.subplots(1, len(losses), squeeze=False)[0]
    for axes, (stage, values) in zip(panels, losses.items(), strict=True):
        parts = np.array_split(np.asarray(values), min(MAX_POINTS, len(values)))
        means = [part.mean() for part in parts]
        axes.semilogy(np.linspace(0, len(values), len(means)), means)
        axes.set_title(f"{stage}: loss {max(means):.3g} to {means[-1]:.3g}, {len(values)} steps", fontsize="small")
    figure.savefig(path)
