"""Curves of losses as an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

WIDTH, HEIGHT, MARGIN = 480, 260, 36
POINTS = 200


def draw(path: Path, losses: Mapping[str, Sequence[float]]) -> None:
    """Write one panel a curve, side by side; the scale is logarithmic."""
    image = Image.new("RGB", (WIDTH * len(losses), HEIGHT), "white")
    for number, (name, values) in enumerate(losses.items()):
        _panel(ImageDraw.Draw(image), number * WIDTH, name, np.asarray(values, np.float64))
    image.save(path, optimize=True)


def _panel(pen: ImageDraw.ImageDraw, left: int, name: str, values: np.ndarray) -> None:
    parts = np.array_split(values, min(POINTS, len(values)))
    means = np.log10(np.maximum([part.mean() for part in parts], 1e-6))
    low, high = float(means.min()), float(means.max()) + 1e-6
    x = left + MARGIN + np.linspace(0, WIDTH - 2 * MARGIN, len(means))
    y = HEIGHT - MARGIN - (means - low) / (high - low) * (HEIGHT - 2 * MARGIN)
    pen.rectangle((left + MARGIN, MARGIN, left + WIDTH - MARGIN, HEIGHT - MARGIN), outline="grey")
    pen.line([(float(a), float(b)) for a, b in zip(x, y, strict=True)], fill="navy", width=2)
    pen.text((left + MARGIN, 12), f"{name}: loss {10**high:.3g} to {10 ** means[-1]:.3g}, {len(values)} steps", "black")
