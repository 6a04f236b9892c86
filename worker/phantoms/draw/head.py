"""Axial slices of the head: CT (in parts of the brain window) and MR (FLAIR-like), from one geometry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from worker.phantoms.cases import Case, Finding
    from worker.phantoms.draw.canvas import Canvas, Plane

#: Grey of scalp, skull, brain, white matter and ventricle; of each finding, and of the oedema around a mass.
CT = {
    "scalp": 0.30, "skull": 1.0, "brain": 0.46, "white": 0.40, "csf": 0.16, "haemorrhage": 0.86,
    "subdural haematoma": 0.80, "infarct": 0.24, "mass": 0.62, "oedema": 0.30,
}  # fmt: skip
MR = {
    "scalp": 0.62, "skull": 0.06, "brain": 0.50, "white": 0.40, "csf": 0.10, "haemorrhage": 0.02,
    "subdural haematoma": 0.98, "infarct": 0.88, "mass": 0.70, "oedema": 0.82,
}  # fmt: skip
#: Half the height of a lesion in levels.
REACH = 0.62
#: Half axes of the skull at the widest level.
SKULL_X, SKULL_Y = 0.68, 0.84
#: Hounsfield units of grey 1.0, and added to it for the skull.
WHITE_HU, SKULL_HU = 80, 800


def axial(canvas: Canvas, case: Case) -> tuple[Plane, dict[str, Plane]]:
    """Draw a slice at the case's level (grey, 0..1); returns it and the masks of the findings visible in it."""
    c, grey = canvas, MR if case.image == "mr" else CT
    size = _size(case)
    rx, ry = SKULL_X * size, SKULL_Y * size
    brain = c.ellipse(0, 0, rx * 0.90, ry * 0.90)
    a = grey["scalp"] * c.ellipse(0, 0, rx * 1.08, ry * 1.07)
    head = c.ellipse(0, 0, rx, ry)
    a = a * (1 - head) + grey["skull"] * head
    a = a * (1 - brain) + brain * _tissue(c, grey, size)
    a = _ventricles(c, case, a, grey, size)
    a = a - 0.10 * brain * c.stroke([(0, -ry), (0, -0.35 * size)], 0.02)
    masks = {}
    for finding in case.findings:
        extent = 1 - ((case.level - _centre(case, finding)) / REACH) ** 2
        if extent > 0:
            a, mask = _paint(c, a, finding, grey, float(np.sqrt(extent)), size)
            masks[finding.name] = mask * (brain if finding.name != "subdural haematoma" else 1)
    return a.astype(np.float32), masks


def skull(canvas: Canvas, case: Case) -> Plane:
    """Return the mask of the skull."""
    size = _size(case)
    rx, ry = SKULL_X * size, SKULL_Y * size
    return canvas.ellipse(0, 0, rx, ry) * (1 - canvas.ellipse(0, 0, rx * 0.90, ry * 0.90))


def _size(case: Case) -> float:
    """Return the relative width of the head at this level."""
    return float(np.sqrt(max(1 - 0.62 * case.level**2, 0.1)))


def _centre(case: Case, finding: Finding) -> float:
    """Return the level of a lesion's centre, the same for all slices of a case."""
    return 0.15 * np.sin(case.seed % 1000 + len(finding.name)) if finding.name != "hydrocephalus" else 0.0


def _tissue(c: Canvas, grey: dict[str, float], size: float) -> Plane:
    folds = c.radius(0, 0, 0.46 * size, 0.62 * size) * np.float32(0.4) + np.float32(0.05) * c.clouds(16)
    white = c.inside(folds, soft=4)
    tissue: Plane = white * grey["white"] + (1 - white) * grey["brain"] + np.float32(0.012) * c.clouds(24)
    return tissue


def _ventricles(c: Canvas, case: Case, a: Plane, grey: dict[str, float], size: float) -> Plane:
    wide: float = next((1.9 for finding in case.findings if finding.name == "hydrocephalus"), 1.0)
    shape = float(max(1 - (case.level / 0.85) ** 2, 0) ** 0.5)
    if shape == 0:
        return a
    wide = wide * (0.85 + 0.3 * (case.seed % 97) / 97)
    for sign in (-1, 1):
        horn = c.ellipse(
            sign * 0.11 * wide**0.5, -0.10, 0.06 * wide * shape, 0.26 * size * wide**0.3 * shape, sign * 14
        )
        a = a * (1 - horn) + grey["csf"] * horn
    return a


def _paint(
    c: Canvas, a: Plane, finding: Finding, grey: dict[str, float], extent: float, size: float
) -> tuple[Plane, Plane]:
    sign = 1.0 if finding.side == "left" else -1.0
    if finding.name == "hydrocephalus":
        return a, c.ellipse(0, -0.10, 0.30, 0.40)
    if finding.name == "subdural haematoma":
        mask: Plane = c.ellipse(0, 0, 0.62 * size, 0.765 * size) * (
            1 - c.ellipse(-sign * 0.13 * extent, 0, 0.64 * size, 0.80 * size)
        )
    else:
        mask = _lesion(c, finding, sign, extent, size)
    if finding.name == "mass":
        core = c.ellipse(*_place(c, sign, size), 0.14 * extent, 0.14 * extent)
        a = a * (1 - mask) + grey["oedema"] * mask
        ring = core * (1 - c.ellipse(*_place(c, sign, size), 0.085 * extent, 0.085 * extent))
        a = a * (1 - core) + 0.3 * core * grey["brain"] + 0.7 * core * grey["csf"]
        return a * (1 - ring) + grey["mass"] * 1.25 * ring, mask
    return a * (1 - mask) + grey[finding.name] * mask, mask


def _place(c: Canvas, sign: float, size: float) -> tuple[float, float]:
    across, along = c.place
    return sign * across * size, along * size


def _lesion(c: Canvas, finding: Finding, sign: float, extent: float, size: float) -> Plane:
    x, y = _place(c, sign, size)
    if finding.name == "infarct":
        ragged = c.radius(sign * 0.40 * size, 0.05 + 0.3 * y, 0.22 * extent, 0.34 * extent, sign * 8)
        return c.inside((ragged * 0.2 + 0.02 * c.clouds(14)).astype(np.float32), soft=3)
    radius = {"haemorrhage": 0.15, "mass": 0.25}[finding.name] * extent
    ragged = c.radius(x, y, radius, radius * 0.9) + 0.12 * c.clouds(12)
    return c.inside(ragged.astype(np.float32) * np.float32(radius), soft=2)
