"""Endoscopic stills: folds running into a dark lumen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from worker.phantoms.draw.canvas import blend

if TYPE_CHECKING:
    from worker.phantoms.cases import Case
    from worker.phantoms.draw.canvas import Canvas, Plane

MUCOSA = (0.88, 0.48, 0.40)


def still(canvas: Canvas, case: Case) -> tuple[Plane, dict[str, Plane]]:
    """Draw a colour still [size, size, 3]; returns it and the mask of each finding."""
    c = canvas
    lumen = (float(c.rng.uniform(-0.2, 0.2)), float(c.rng.uniform(-0.2, 0.2)))
    depth = np.hypot(c.x - lumen[0], c.y - lumen[1])
    rings = 0.06 * np.sin(10 * np.log(depth + 0.15) + 0.6 * c.clouds(5))
    shade = np.clip(depth * 1.3, 0.10, 1.0) + rings + 0.02 * c.clouds(10)
    image: Plane = (np.array(MUCOSA, np.float32) * shade[..., None]).astype(np.float32)
    masks: dict[str, Plane] = {}
    angle = float(c.rng.uniform(0, 2 * np.pi))
    for number, finding in enumerate(case.findings):
        # Findings are spaced around the lumen.
        at = angle + number * 2 * np.pi / max(len(case.findings), 1)
        place = (lumen[0] + 0.55 * np.cos(at), lumen[1] + 0.55 * np.sin(at))
        paint = {"polyp": _polyp, "ulcer": _ulcer, "bleeding": _bleeding, "diverticulum": _diverticulum}[finding.name]
        image, masks[finding.name] = paint(c, image, place, finding.size)
    shine = np.clip(c.clouds(18) - 2.0, 0, 1)
    image = blend(image, shine * np.float32(0.8), (1.0, 0.97, 0.95))
    return image * c.ellipse(0, 0, 0.98, 0.98)[..., None], masks


def _polyp(c: Canvas, image: Plane, at: tuple[float, float], size: str) -> tuple[Plane, Plane]:
    r = float(c.rng.uniform(0.24, 0.29) if size == "large" else c.rng.uniform(0.11, 0.14))
    shadow = c.ellipse(at[0] + 0.05, at[1] + 0.06, r * 1.12, r * 1.08, soft=5)
    image = blend(image, shadow * np.float32(0.55), (0.30, 0.10, 0.10))
    mask = c.ellipse(*at, r, r * 0.92, soft=2)
    image = blend(image, mask * np.float32(0.95), (0.93, 0.40, 0.38))
    light = c.ellipse(at[0] - 0.3 * r, at[1] - 0.35 * r, 0.35 * r, 0.25 * r, soft=3)
    return blend(image, light * np.float32(0.9), (1.0, 0.88, 0.84)), mask


def _ulcer(c: Canvas, image: Plane, at: tuple[float, float], _: str) -> tuple[Plane, Plane]:
    ragged = c.radius(*at, 0.19, 0.15) + 0.15 * c.clouds(12)
    mask = c.inside((ragged - 0.25).astype(np.float32) * np.float32(0.18), soft=3)
    image = blend(image, mask * np.float32(0.8), (0.72, 0.12, 0.12))
    floor = c.inside(ragged.astype(np.float32) * np.float32(0.18), soft=2)
    return blend(image, floor * np.float32(0.95), (0.97, 0.93, 0.74)), mask


def _bleeding(c: Canvas, image: Plane, at: tuple[float, float], _: str) -> tuple[Plane, Plane]:
    ragged = c.radius(*at, 0.20, 0.13) + 0.30 * c.clouds(10)
    pool = c.inside(ragged.astype(np.float32) * np.float32(0.2), soft=2)
    run = c.stroke([at, (at[0] + 0.05, at[1] + 0.16), (at[0] + 0.02, at[1] + 0.34)], 0.07)
    mask = np.maximum(pool, run)
    return blend(image, mask * np.float32(0.95), (0.48, 0.01, 0.02)), mask


def _diverticulum(c: Canvas, image: Plane, at: tuple[float, float], _: str) -> tuple[Plane, Plane]:
    rim = c.ellipse(*at, 0.17, 0.14, soft=3)
    image = blend(image, rim * np.float32(0.6), (0.97, 0.62, 0.52))
    hole = c.ellipse(*at, 0.125, 0.10, soft=2)
    return blend(image, hole, (0.08, 0.02, 0.02)), rim
