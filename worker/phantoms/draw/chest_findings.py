"""Draw each chest finding: change the attenuation of the radiograph and return the finding's mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from worker.phantoms.draw.chest import ZONE_Y, Chest

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.phantoms.cases import Case, Finding
    from worker.phantoms.draw.canvas import Canvas, Plane
    from worker.phantoms.draw.chest import Painter

    #: Draws an object at x, y of radius r.
    Distractor = Callable[[Chest, float, float, float], Plane]


def _cardiomegaly(t: Chest, _: Finding) -> Plane:
    return t.heart_mask


def _effusion(t: Chest, finding: Finding) -> Plane:
    sign = t.sign(finding.side)
    top = t.jitter(0.03) + (0.38 if finding.size == "small" else 0.02)
    meniscus = top - 0.55 * (np.maximum(sign * t.c.x - 0.35, 0) ** 1.5)
    lung = t.c.ellipse(sign * 0.43, 0.0, 0.36, t.lung_ry + 0.04, -sign * 4)
    mask: Plane = lung * t.c.inside(meniscus.astype(np.float32) - t.c.y, soft=2)
    t.a = t.a * (1 - mask) + mask * np.maximum(t.a, 0.60)
    return mask


def _pneumothorax(t: Chest, finding: Finding) -> Plane:
    sign = t.sign(finding.side)
    if finding.size == "small":
        rest = t.c.ellipse(sign * 0.38, 0.14 + t.jitter(0.02), 0.33, 0.66, -sign * 4)
    else:
        rest = t.c.ellipse(sign * 0.26, 0.20 + t.jitter(0.03), 0.20, 0.42, -sign * 4)
    free: Plane = t.lung[finding.side] * (1 - rest) * (1 - t.heart_mask)
    edge = rest * (1 - rest) * 4 * t.lung[finding.side]
    t.a = t.a - free * (0.09 + 0.06 * t.vessels) + 0.16 * edge
    if finding.size == "large":
        t.a = t.a + 0.08 * rest * t.lung[finding.side]
    return free


def _consolidation(t: Chest, finding: Finding) -> Plane:
    sign = t.sign(finding.side)
    x = sign * (0.46 + t.jitter(0.07))
    y = ZONE_Y[finding.zone] + t.jitter(0.06)
    radius = t.c.rng.uniform(0.14, 0.20)
    ragged = t.c.radius(x, y, radius, radius * t.c.rng.uniform(0.8, 1.1)) + 0.22 * t.c.clouds(14)
    mask: Plane = t.c.inside(ragged.astype(np.float32) * np.float32(radius), soft=4) * t.lung[finding.side]
    t.a = t.a + mask * (0.27 + 0.03 * t.c.clouds(20))
    return mask


def _nodule(t: Chest, finding: Finding) -> Plane:
    sign = t.sign(finding.side)
    centre = (sign * (0.47 + t.jitter(0.10)), ZONE_Y[finding.zone] + t.jitter(0.09))
    radius = t.c.rng.uniform(0.05, 0.075)
    mask = t.c.ellipse(*centre, radius, radius * t.c.rng.uniform(0.85, 1.0))
    t.a = t.a + 0.30 * mask
    return mask


def _atelectasis(t: Chest, finding: Finding) -> Plane:
    sign, y, tilt = t.sign(finding.side), 0.36 + t.jitter(0.06), t.jitter(0.05)
    mask = t.c.stroke([(sign * 0.28, y + tilt), (sign * 0.68, y - tilt)], 0.045)
    t.a = t.a + 0.24 * mask * t.lung[finding.side]
    return mask


def _hilar_enlargement(t: Chest, finding: Finding) -> Plane:
    sign = t.sign(finding.side)
    mask = np.maximum(
        t.c.ellipse(sign * 0.24, -0.05, 0.11, 0.10, soft=2), t.c.ellipse(sign * 0.23, 0.07, 0.09, 0.10, soft=2)
    )
    t.a = t.a + 0.26 * mask * t.lung[finding.side]
    return mask


def _rib_fracture(t: Chest, finding: Finding) -> Plane:
    sign, y = t.sign(finding.side), float(t.c.rng.uniform(-0.15, 0.30))
    x = sign * (0.66 + t.jitter(0.02))
    step = 0.05
    lateral = t.c.stroke([(x, y + step), (x + sign * 0.13, y + step + 0.05)], 0.05)
    medial = t.c.stroke([(x - sign * 0.16, y - 0.05), (x, y - step)], 0.05)
    gap = t.c.stroke([(x, y - 0.09), (x, y + 0.09)], 0.022)
    t.a = t.a + 0.26 * np.maximum(lateral, medial) - 0.12 * gap
    return np.maximum(np.maximum(lateral, medial), gap)


def _pacemaker(t: Chest, finding: Finding) -> Plane:
    sign = t.sign(finding.side)
    x, y = sign * (0.56 + t.jitter(0.04)), -0.44 + t.jitter(0.04)
    box = t.c.inside(np.maximum(np.abs(t.c.x - x), np.abs(t.c.y - y)).astype(np.float32) - np.float32(0.095))
    lead = t.c.stroke([(x, y - 0.05), (sign * 0.2, -0.56), (-0.05, -0.2), (0.16, 0.42)], 0.02)
    t.a = np.maximum(t.a, 0.98 * box)
    t.a = t.a + 0.28 * lead
    return np.maximum(box, lead)


def _central_line(t: Chest, finding: Finding) -> Plane:
    sign = t.sign(finding.side)
    tip = 0.02 + t.jitter(0.05)
    mask = t.c.stroke([(sign * 0.24, -1.1), (sign * 0.17, -0.75), (-0.07, -0.45), (-0.09, tip)], 0.026)
    t.a = t.a + 0.26 * mask
    return mask


def _tracheal_tube(t: Chest, _: Finding) -> Plane:
    tip = -0.36 + t.jitter(0.03)
    walls = [t.c.stroke([(x, -1.2), (x, tip)], 0.020) for x in (-0.032, 0.032)]
    mask = np.maximum(*walls)
    t.a = t.a + 0.34 * mask
    return t.c.stroke([(0.0, -1.2), (0.0, tip)], 0.09)


def _free_air(t: Chest, _: Finding) -> Plane:
    mask = np.zeros_like(t.a)
    depth = float(t.c.rng.uniform(0.07, 0.12))
    for sign, reach in ((-1.0, 0.30), (1.0, float(t.c.rng.uniform(0.0, 0.22)))):
        dome = t.dome + 0.5 * (t.c.mirrored() - 0.42) ** 2 - 0.03 * (t.c.x < 0) + 0.015
        across = np.clip(1 - ((t.c.x - sign * 0.42) / np.float32(reach + 1e-3)) ** 2, 0, 1)
        crescent = t.c.inside(np.maximum(dome - t.c.y, t.c.y - dome - depth * across).astype(np.float32))
        mask = np.maximum(mask, crescent * (across > 0))
    t.a = t.a - 0.46 * mask * t.below
    return mask


def _subcutaneous_emphysema(t: Chest, finding: Finding) -> Plane:
    sign, mask = t.sign(finding.side), np.zeros_like(t.a)
    for _ in range(9):
        x, y = sign * t.c.rng.uniform(0.77, 0.90), t.c.rng.uniform(-0.55, 0.35)
        length = t.c.rng.uniform(0.10, 0.22)
        mask = np.maximum(mask, t.c.stroke([(x, y), (x + t.jitter(0.03), y + length)], t.c.rng.uniform(0.015, 0.03)))
    t.a = t.a - 0.36 * mask * t.body
    return mask


def _miliary(t: Chest, _: Finding) -> Plane:
    count = int(t.c.rng.integers(110, 160))
    centres = np.stack([t.c.rng.uniform(-0.80, 0.80, count), t.c.rng.uniform(-0.62, 0.58, count)], axis=1)
    mask = t.c.spots(centres, t.c.rng.uniform(0.022, 0.034, count)) * t.lungs
    t.a = t.a + 0.20 * mask
    return t.lungs


def _spinal_rods(t: Chest, _: Finding) -> Plane:
    top, x = -0.35 + t.jitter(0.08), 0.055
    rods = np.maximum(*[t.c.stroke([(s * x, top), (s * x, 1.2)], 0.03) for s in (-1, 1)])
    screws = [t.c.stroke([(-0.10, y), (0.10, y)], 0.022) for y in np.arange(top + 0.05, 1.0, 0.22)]
    mask: Plane = np.maximum.reduce([rods, *screws])
    t.a = t.a + 0.34 * mask
    return mask


def _hiatal_hernia(t: Chest, _: Finding) -> Plane:
    x, y, radius = 0.05 + t.jitter(0.03), 0.36 + t.jitter(0.03), t.c.rng.uniform(0.14, 0.18)
    ring = t.c.ellipse(x, y, radius, radius)
    inner = t.c.ellipse(x, y, radius - 0.03, radius - 0.03) * t.c.inside(t.c.y - np.float32(y))
    t.a = t.a + 0.14 * ring - 0.42 * inner
    return ring


#: Threshold of the sine wave for wide bars and for narrow ones.
WIDE_BARS, NARROW_BARS = 0.2, 0.5


def draw_distractor(t: Chest) -> Plane:
    """Draw a bright or dark object anywhere in the body: ring, cluster, squiggle, block, wedge or grid."""
    rng = t.c.rng
    x, y = float(rng.uniform(-0.75, 0.75)), float(rng.uniform(-0.75, 0.85))
    mask = _DISTRACTORS[int(rng.integers(len(_DISTRACTORS)))](t, x, y, float(rng.uniform(0.10, 0.24)))
    strength = float(rng.uniform(0.22, 0.45)) * (1 if rng.integers(2) else -1)
    t.a = t.a + strength * mask * t.body
    return mask * t.body


def _ring(t: Chest, x: float, y: float, r: float) -> Plane:
    wide = float(t.c.rng.uniform(0.3, 0.8))
    return t.c.ellipse(x, y, r, r * wide, 90 * wide) * (1 - t.c.ellipse(x, y, r * 0.7, r * wide * 0.6, 90 * wide))


def _cluster(t: Chest, x: float, y: float, r: float) -> Plane:
    count = int(t.c.rng.integers(6, 40))
    return t.c.spots(t.c.rng.normal((x, y), r, (count, 2)), t.c.rng.uniform(0.012, 0.035, count))


def _squiggle(t: Chest, x: float, y: float, r: float) -> Plane:
    steps = t.c.rng.normal(0, r * 0.8, (int(t.c.rng.integers(3, 7)), 2)).cumsum(axis=0) + np.array((x, y))
    return t.c.stroke([(float(px), float(py)) for px, py in steps], float(t.c.rng.uniform(0.02, 0.05)))


def _block(t: Chest, x: float, y: float, r: float) -> Plane:
    tall = r * float(t.c.rng.uniform(0.2, 1.0))
    return t.c.inside(np.maximum(np.abs(t.c.x - x) - np.float32(r), np.abs(t.c.y - y) - np.float32(tall)))


def _wedge(t: Chest, x: float, y: float, r: float) -> Plane:
    wedge = t.c.ellipse(x, y, r * 1.4, r * 1.4) * (1 - t.c.ellipse(x + t.jitter(0.1), y + 0.6 * r, r * 1.5, r * 1.4))
    return np.asarray(wedge, dtype=np.float32)


def _grid(t: Chest, x: float, y: float, r: float) -> Plane:
    period = float(t.c.rng.uniform(30, 60))
    bars: Plane = (np.sin(t.c.x * period) > WIDE_BARS).astype(np.float32)
    if t.c.rng.integers(2):
        bars = np.maximum(bars, (np.sin(t.c.y * period) > NARROW_BARS).astype(np.float32))
    return bars * t.c.ellipse(x, y, r, r * float(t.c.rng.uniform(0.4, 1.6)))


_DISTRACTORS: tuple[Distractor, ...] = (_ring, _cluster, _squiggle, _block, _wedge, _grid)

PAINTERS: dict[str, Painter] = {
    "cardiomegaly": _cardiomegaly,
    "pleural effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "consolidation": _consolidation,
    "nodule": _nodule,
    "atelectasis": _atelectasis,
    "hilar enlargement": _hilar_enlargement,
    "rib fracture": _rib_fracture,
    "pacemaker": _pacemaker,
    "central venous line": _central_line,
    "tracheal tube": _tracheal_tube,
    "free air": _free_air,
    "subcutaneous emphysema": _subcutaneous_emphysema,
    "miliary opacities": _miliary,
    "spinal rods": _spinal_rods,
    "hiatal hernia": _hiatal_hernia,
}


def frontal(canvas: Canvas, case: Case) -> tuple[Plane, dict[str, Plane]]:
    """Draw a posterior-anterior chest radiograph (grey, 0..1, bone bright); returns it and the mask of each finding."""
    chest = Chest(canvas, case)
    masks = {finding.name: PAINTERS[finding.name](chest, finding) for finding in case.findings}
    if case.distractor:
        masks["distractor"] = draw_distractor(chest)
    return chest.a, masks
