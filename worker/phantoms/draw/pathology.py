"""Haematoxylin and eosin stained sections: glands on a lattice, round or crowded, and the stroma between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from worker.phantoms.draw.canvas import blend

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.phantoms.cases import Case
    from worker.phantoms.draw.canvas import Canvas, Plane

STROMA = (0.93, 0.72, 0.82)
EPITHELIUM = (0.62, 0.38, 0.66)
NUCLEUS = (0.30, 0.14, 0.45)
LUMEN = (0.98, 0.95, 0.97)


def section(canvas: Canvas, case: Case) -> tuple[Plane, dict[str, Plane]]:
    """Draw a colour micrograph [size, size, 3]; returns it and the mask of each finding."""
    c = canvas
    names = {finding.name for finding in case.findings}
    fibres = 1 + 0.035 * c.clouds(22) + 0.03 * c.clouds(8)
    image: Plane = (np.array(STROMA, np.float32) * fibres[..., None]).astype(np.float32)
    tumour = _half(c) if "tumour" in names else np.zeros_like(c.x)
    image = _glands(c, image, tumour)
    masks: dict[str, Plane] = {"tumour": tumour} if "tumour" in names else {}
    if "necrosis" in names:
        image, masks["necrosis"] = _necrosis(c, image)
    if "inflammation" in names:
        image, masks["inflammation"] = _inflammation(c, image)
    return image, masks


def _half(c: Canvas) -> Plane:
    """Return the mask of the part of the field with tumour."""
    angle = float(c.rng.uniform(0, 2 * np.pi))
    edge = c.x * np.cos(angle) + c.y * np.sin(angle) + 0.12 * c.clouds(6) + c.rng.uniform(0.0, 0.35)
    half: Plane = np.clip(0.5 + edge * 12, 0, 1).astype(np.float32)
    return half


def _glands(c: Canvas, image: Plane, tumour: Plane) -> Plane:
    lattice = [(column * 0.46 + 0.23 * (row % 2), row * 0.44) for row in range(-2, 3) for column in range(-2, 3)]
    centres = np.array(lattice) + c.rng.uniform(-0.05, 0.05, (25, 2))
    radii = c.rng.uniform(0.15, 0.19, 25)
    around = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = np.stack([np.cos(around), np.sin(around)], axis=1)
    nuclei = (centres[:, None] + 0.78 * radii[:, None, None] * ring).reshape(-1, 2)
    normal = 1 - tumour
    image = blend(image, c.spots(centres, radii) * normal, EPITHELIUM)
    image = blend(image, c.spots(centres, radii * 0.48) * normal, LUMEN)
    image = blend(image, c.spots(nuclei, np.full(len(nuclei), 0.022)) * normal, NUCLEUS)
    if tumour.any():
        crowd = c.spots(c.rng.uniform(-1, 1, (110, 2)), c.rng.uniform(0.03, 0.055, 110))
        image = blend(image, tumour * np.float32(0.75), (0.66, 0.42, 0.68))
        image = blend(image, crowd * tumour, NUCLEUS)
    return image


def _inflammation(c: Canvas, image: Plane) -> tuple[Plane, Plane]:
    x, y = c.rng.uniform(-0.5, 0.5, 2)
    count = 90
    cells: npt.NDArray[np.float64] = c.rng.normal((x, y), 0.17, (count, 2))
    image = blend(image, c.ellipse(x, y, 0.36, 0.36, soft=10) * np.float32(0.5), STROMA)
    image = blend(image, c.spots(cells, np.full(count, 0.020)), (0.16, 0.10, 0.42))
    return image, c.ellipse(x, y, 0.34, 0.34)


def _necrosis(c: Canvas, image: Plane) -> tuple[Plane, Plane]:
    x, y = c.rng.uniform(-0.45, 0.45, 2)
    ragged = c.radius(x, y, 0.42, 0.36) + 0.20 * c.clouds(8)
    mask = c.inside(ragged.astype(np.float32) * np.float32(0.38), soft=4)
    image = blend(image, mask * np.float32(0.93), (0.90, 0.50, 0.58))
    debris = np.clip(c.clouds(40) - 1.3, 0, 1) * mask
    return blend(image, debris * np.float32(0.7), (0.45, 0.25, 0.45)), mask
