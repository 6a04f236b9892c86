"""The chest without findings: attenuation summed over structures; a frontal and a coarse lateral view."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.phantoms.cases import Case, Finding
    from worker.phantoms.draw.canvas import Canvas, Plane

    #: Changes the attenuation and returns the mask of the finding.
    Painter = Callable[["Chest", Finding], Plane]

ZONE_Y = {"upper": -0.42, "middle": -0.05, "lower": 0.34}


class Chest:
    """A frontal chest: anatomy with random proportions, and the attenuation painted so far."""

    def __init__(self, canvas: Canvas, case: Case) -> None:
        self.c = canvas
        rng = canvas.rng
        self.heart_rx = float(rng.uniform(0.25, 0.30))
        self.lung_ry = float(rng.uniform(0.64, 0.72))
        self.dome = float(rng.uniform(0.52, 0.60))
        names = {finding.name: finding for finding in case.findings}
        if "cardiomegaly" in names:
            low, high = (0.36, 0.40) if names["cardiomegaly"].size == "mild" else (0.47, 0.53)
            self.heart_rx = float(rng.uniform(low, high))
        self.heart_mask = canvas.ellipse(0.10, 0.30, self.heart_rx, 0.27, 18, soft=2)
        domes = self.dome + 0.5 * (canvas.mirrored() - 0.42) ** 2 - 0.03 * (canvas.x < 0)
        self.below = canvas.inside(domes.astype(np.float32) - canvas.y)
        self.above = 1 - self.below
        self.lung = {side: self._lung(self.sign(side)) for side in ("left", "right")}
        self.lungs = np.maximum(self.lung["left"], self.lung["right"])
        self.body = self._body()
        self.vessels = self._vessels()
        self.a: Plane = self._anatomy()

    @staticmethod
    def sign(side: str) -> float:
        """Return the sign of the x coordinate on a side: the patient's left is at the viewer's right."""
        return 1.0 if side == "left" else -1.0

    def jitter(self, spread: float) -> float:
        """Draw a small random offset."""
        return float(self.c.rng.uniform(-spread, spread))

    def _lung(self, sign: float) -> Plane:
        narrow = 0.33 if sign > 0 else 0.35
        return self.c.ellipse(sign * 0.43, 0.0, narrow, self.lung_ry, -sign * 4) * self.above

    def _body(self) -> Plane:
        c = self.c
        half_width = 0.86 + 0.08 * np.clip(c.y + 0.4, -1, 0.6)
        torso = c.inside(c.mirrored() - half_width.astype(np.float32), soft=2) * c.inside(-0.72 - c.y, soft=3)
        neck = c.ellipse(0, -0.95, 0.30, 0.40, soft=2)
        shoulders = c.ellipse(0, -0.52, 1.02, 0.36, soft=2)
        return np.maximum(np.maximum(torso, neck), shoulders)

    def _vessels(self) -> Plane:
        rng = self.c.rng
        mask = np.zeros_like(self.c.x)
        for sign in (-1.0, 1.0):
            for angle in rng.uniform(-1.3, 1.3, 6):
                length = rng.uniform(0.3, 0.5)
                start = (sign * 0.18, 0.0 + 0.08 * angle)
                end = (sign * (0.18 + length * np.cos(angle)), length * np.sin(angle) * 1.2)
                np.maximum(mask, self.c.stroke([start, end], 0.014), out=mask)
        return mask

    def _ribs(self) -> Plane:
        c, mask = self.c, np.zeros_like(self.c.x)
        distance = c.mirrored()
        for number in range(9):
            centre = -0.62 + number * 0.145 + 0.55 * (distance - 0.32) ** 2 + 0.10 * distance
            np.maximum(mask, c.inside(np.abs(c.y - centre.astype(np.float32)) - np.float32(0.022)), out=mask)
        cage = c.inside(distance - np.float32(0.80), soft=2) * c.inside(0.10 - distance)
        return mask * cage * self.above

    def _anatomy(self) -> Plane:
        c = self.c
        rng = c.rng
        a = self.body * (0.62 + 0.02 * c.clouds(6))
        a = a * (1 - self.lungs) + self.lungs * (0.20 + 0.012 * c.clouds(12))
        a = a + 0.07 * self._ribs() + 0.06 * self.vessels * self.lungs
        spine = c.inside(c.mirrored() - np.float32(0.085), soft=2)
        a = a + spine * (0.13 + 0.025 * np.sin(c.y * 24))
        a = np.maximum(a, 0.66 * self.heart_mask * self.above) + 0.04 * self.heart_mask
        knob = c.ellipse(0.12, -0.24, 0.09, 0.09, soft=2)
        mediastinum = c.ellipse(0.0, -0.25, 0.13, 0.55, soft=3)
        a = np.maximum(a, 0.58 * np.maximum(knob, mediastinum))
        for sign in (-1.0, 1.0):
            hilum = c.ellipse(sign * 0.20, 0.0 - 0.03 * (sign > 0), 0.06, 0.09, soft=3)
            a = a + 0.16 * hilum * self.lungs
            clavicle = c.stroke([(sign * 0.06, -0.60), (sign * 0.36, -0.68), (sign * 0.74, -0.76)], 0.055)
            a = a + 0.13 * clavicle
        a = a - 0.14 * c.stroke([(0.0, -1.0), (0.0, -0.35), (0.0, -0.20)], 0.075)
        a = np.maximum(a, 0.70 * self.below * self.body)
        stomach = c.ellipse(0.36, self.dome + 0.20, rng.uniform(0.07, 0.13), 0.07, soft=3)
        painted: Plane = (a - 0.12 * stomach * self.below).astype(np.float32)
        return painted


def lateral(canvas: Canvas, case: Case) -> tuple[Plane, dict[str, Plane]]:
    """Draw a coarse lateral view of the same chest, without masks of findings."""
    c = canvas
    torso = c.ellipse(0.0, 0.1, 0.72, 1.05, soft=2)
    a = torso * (0.55 + 0.02 * c.clouds(6))
    lung = c.ellipse(0.05, -0.05, 0.50, 0.66, soft=2)
    a = a * (1 - lung) + lung * 0.22
    size = next((finding.size for finding in case.findings if finding.name == "cardiomegaly"), "")
    a = a + 0.33 * c.ellipse(-0.22, 0.28, 0.25 + {"": 0.0, "mild": 0.06, "marked": 0.12}[size], 0.26, 20, soft=3)
    a = a + 0.22 * c.stroke([(0.36, -0.9), (0.46, -0.2), (0.44, 0.4), (0.36, 1.0)], 0.17)
    for number in range(7):
        y = -0.55 + number * 0.16
        a = a + 0.05 * c.stroke([(0.45, y), (0.0, y + 0.12), (-0.45, y + 0.32)], 0.035) * lung
    dome = c.inside(np.float32(0.52) + 0.5 * (c.x - 0.05) ** 2 - c.y)
    return np.maximum(a, 0.66 * dome * torso).astype(np.float32), {}
