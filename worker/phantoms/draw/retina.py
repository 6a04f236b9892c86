"""Fundus photographs: disc, vessels, macula, and signs of diabetes, age and raised pressure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from worker.phantoms.draw.canvas import blend

if TYPE_CHECKING:
    from worker.phantoms.cases import Case, Finding
    from worker.phantoms.draw.canvas import Canvas, Plane

FUNDUS = (0.72, 0.34, 0.14)
DISC = (0.96, 0.80, 0.46)
CUP = (1.0, 0.96, 0.82)
VESSEL = (0.46, 0.10, 0.06)
BLOOD = (0.34, 0.03, 0.03)
EXUDATE = (0.98, 0.92, 0.42)
DRUSE = (0.90, 0.62, 0.30)


def fundus(canvas: Canvas, case: Case) -> tuple[Plane, dict[str, Plane]]:
    """Draw a colour photograph [size, size, 3]; returns it and the mask of each finding."""
    c = canvas
    eye = 1.0 if c.rng.integers(2) else -1.0
    names = {finding.name: finding for finding in case.findings}
    image = _field(c)
    image = blend(image, c.ellipse(-eye * 0.12, 0.02, 0.16, 0.16, soft=14) * np.float32(0.45), (0.40, 0.14, 0.06))
    image = blend(image, _vessels(c, eye) * np.float32(0.75), VESSEL)
    disc = c.ellipse(eye * 0.46, 0.0, 0.16, 0.18, soft=2)
    image = blend(image, disc, DISC)
    cup = 0.125 if "disc cupping" in names else 0.055
    image = blend(image, c.ellipse(eye * 0.46, 0.0, cup, cup * 1.12, soft=2), CUP)
    masks = {"disc cupping": disc} if "disc cupping" in names else {}
    for name in ("drusen", "exudates", "retinal haemorrhages"):
        if name in names:
            image, masks[name] = _lesions(c, image, names[name], eye)
    visible = c.ellipse(0, 0, 0.94, 0.94)
    return image * visible[..., None], masks


def _field(c: Canvas) -> Plane:
    shade = 1 - 0.25 * np.clip(c.radius(0, 0, 1, 1) + 1, 0, 1.2) ** 2 + 0.03 * c.clouds(6)
    return (np.array(FUNDUS, np.float32) * shade[..., None]).astype(np.float32)


def _vessels(c: Canvas, eye: float) -> Plane:
    mask = np.zeros_like(c.x)
    for up in (-1.0, 1.0):
        for bend, reach, width in ((0.55, 0.95, 0.034), (0.28, 0.55, 0.022)):
            wobble = float(c.rng.uniform(-0.06, 0.06))
            points = [
                (eye * (0.46 - reach * t), up * (bend * np.sin(np.pi * min(t * 1.15, 1.0)) + wobble * t) * 1.05)
                for t in np.linspace(0, 1, 6)
            ]
            np.maximum(mask, c.stroke(points, width), out=mask)
        np.maximum(mask, c.stroke([(eye * 0.46, 0), (eye * 0.85, up * 0.42)], 0.026), out=mask)
    return mask


def _lesions(c: Canvas, image: Plane, finding: Finding, eye: float) -> tuple[Plane, Plane]:
    if finding.name == "drusen":
        centres = c.rng.normal((-eye * 0.12, 0.02), 0.17, (26, 2))
        mask = c.spots(centres, c.rng.uniform(0.018, 0.032, 26))
        return blend(image, mask * np.float32(0.85), DRUSE), mask
    many = finding.size == "numerous"
    count = int(c.rng.integers(16, 22)) if many else int(c.rng.integers(3, 6))
    angle, distance = c.rng.uniform(0, 2 * np.pi, count), c.rng.uniform(0.30, 0.78, count)
    centres = np.stack([distance * np.cos(angle) - eye * 0.08, distance * np.sin(angle)], axis=1)
    if finding.name == "exudates":
        mask = c.spots(centres * 0.75, c.rng.uniform(0.026, 0.045, count))
        return blend(image, mask, EXUDATE), mask
    mask = c.spots(centres, c.rng.uniform(0.035, 0.065, count))
    return blend(image, mask * np.float32(0.9), BLOOD), mask
