"""Photographs of skin lesions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from worker.phantoms.draw.canvas import blend

if TYPE_CHECKING:
    from worker.phantoms.cases import Case
    from worker.phantoms.draw.canvas import Canvas, Plane

TONES = ((0.90, 0.72, 0.62), (0.82, 0.62, 0.50), (0.70, 0.50, 0.38), (0.95, 0.80, 0.72))


def photograph(canvas: Canvas, case: Case) -> tuple[Plane, dict[str, Plane]]:
    """Draw a colour photograph [size, size, 3]; returns it and the mask of each finding."""
    c = canvas
    tone = np.array(TONES[int(c.rng.integers(len(TONES)))], np.float32)
    image: Plane = (tone * (1 + 0.03 * c.clouds(5) + 0.03 * c.clouds(28))[..., None]).astype(np.float32)
    for _ in range(int(c.rng.integers(0, 7))):
        x, y, angle = c.rng.uniform(-1, 1), c.rng.uniform(-1, 1), c.rng.uniform(0, np.pi)
        hair = c.stroke([(x, y), (x + 0.5 * np.cos(angle), y + 0.5 * np.sin(angle))], 0.012)
        image = blend(image, hair * np.float32(0.6), (0.18, 0.12, 0.10))
    masks: dict[str, Plane] = {}
    names = {finding.name for finding in case.findings}
    # From the largest to the smallest, so that none is covered.
    for name, paint in (
        ("erythema", _erythema),
        ("ulceration", _ulceration),
        ("irregular lesion", _irregular),
        ("benign naevus", _naevus),
    ):
        if name in names:
            image, masks[name] = paint(c, image)
    return image, masks


def _centre(c: Canvas, spread: float = 0.25) -> tuple[float, float]:
    return float(c.rng.uniform(-spread, spread)), float(c.rng.uniform(-spread, spread))


def _naevus(c: Canvas, image: Plane) -> tuple[Plane, Plane]:
    x, y = _centre(c)
    radius = float(c.rng.uniform(0.18, 0.28))
    mask = c.ellipse(x, y, radius, radius * float(c.rng.uniform(0.85, 1.0)), soft=2)
    return blend(image, mask * np.float32(0.9), (0.45, 0.27, 0.16)), mask


def _irregular(c: Canvas, image: Plane) -> tuple[Plane, Plane]:
    x, y = _centre(c)
    radius = float(c.rng.uniform(0.30, 0.40))
    ragged = c.radius(x, y, radius, radius * 0.75, float(c.rng.uniform(0, 180))) + 0.30 * c.clouds(9)
    mask = c.inside(ragged.astype(np.float32) * np.float32(radius), soft=2)
    image = blend(image, mask * np.float32(0.9), (0.30, 0.17, 0.12))
    patches = np.clip(c.clouds(10), 0, 1) * mask
    image = blend(image, patches * np.float32(0.8), (0.08, 0.06, 0.09))
    blue = np.clip(-c.clouds(7) - 0.3, 0, 1) * mask
    return blend(image, blue * np.float32(0.7), (0.35, 0.38, 0.50)), mask


def _erythema(c: Canvas, image: Plane) -> tuple[Plane, Plane]:
    x, y = _centre(c, 0.35)
    ragged = c.radius(x, y, 0.62, 0.52) + 0.22 * c.clouds(7)
    mask = c.inside(ragged.astype(np.float32) * np.float32(0.5), soft=8)
    scale = np.clip(c.clouds(30) - 0.9, 0, 1) * mask
    return blend(blend(image, mask * np.float32(0.5), (0.85, 0.22, 0.20)), scale, (0.96, 0.92, 0.90)), mask


def _ulceration(c: Canvas, image: Plane) -> tuple[Plane, Plane]:
    side = 1.0 if c.rng.integers(2) else -1.0
    x, y = side * 0.55 + _centre(c, 0.1)[0], float(c.rng.choice([-0.5, 0.5])) + _centre(c, 0.1)[1]
    ragged = c.radius(x, y, 0.24, 0.20) + 0.15 * c.clouds(12)
    mask = c.inside(ragged.astype(np.float32) * np.float32(0.22), soft=2)
    image = blend(image, mask, (0.62, 0.10, 0.10))
    crust = c.inside((ragged + 0.45).astype(np.float32) * np.float32(0.22), soft=2)
    return blend(image, crust, (0.90, 0.80, 0.45)), mask
