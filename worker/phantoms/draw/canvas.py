"""Shapes that phantoms are drawn with: soft masks over a grid in the patient's pose."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

    #: float32 [height, width], or [height, width, 3] for colour
    Plane = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Pose:
    """Position of the patient: shift and scale in parts of the half width, rotation in degrees."""

    shift_x: float = 0.0
    shift_y: float = 0.0
    degrees: float = 0.0
    scale: float = 1.0

    @classmethod
    def random(cls, rng: np.random.Generator, *, shift: float, degrees: float, scale: float = 0.06) -> Pose:
        """Draw a random pose; *shift* in parts of the full width."""
        x, y, rotation = (float(rng.uniform(-limit, limit)) for limit in (2 * shift, 2 * shift, degrees))
        return cls(x, y, rotation, float(rng.uniform(1 - scale, 1 + scale)))


class Canvas:
    """Coordinates x, y in -1..1 (x to the viewer's right, y down), moved by the pose; masks are float32, 0..1."""

    def __init__(self, size: int, pose: Pose, rng: np.random.Generator) -> None:
        self.size = size
        self._pose = pose
        self.rng = rng
        #: Position of a lesion in its hemisphere of the head, -1..1 across and along.
        self.place = (float(rng.uniform(0.28, 0.36)), float(rng.uniform(-0.30, 0.35)))
        axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        u, v = axis[None, :] - np.float32(pose.shift_x), axis[:, None] - np.float32(pose.shift_y)
        angle = np.deg2rad(pose.degrees)
        cosine, sine = np.float32(np.cos(angle) / pose.scale), np.float32(np.sin(angle) / pose.scale)
        self.x: Plane = u * cosine + v * sine
        self.y: Plane = v * cosine - u * sine
        #: Half a pixel of 128, so that edges are equally soft in images of any size.
        self.edge = np.float32(1 / 128)

    def inside(self, distance: Plane, soft: float = 1.0) -> Plane:
        """Return a mask that is 1 for negative *distance* (in coordinates), with a soft edge."""
        mask: Plane = np.clip(0.5 - distance / (4 * self.edge * np.float32(soft)), 0, 1).astype(np.float32)
        return mask

    def ellipse(self, cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0, soft: float = 1.0) -> Plane:
        """Return the mask of a filled ellipse."""
        return self.inside(self.radius(cx, cy, rx, ry, degrees) * np.float32(min(rx, ry)), soft)

    def radius(self, cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> Plane:
        """Return the elliptical radius minus one: negative inside."""
        dx, dy = self.x - np.float32(cx), self.y - np.float32(cy)
        if degrees:
            angle = np.deg2rad(degrees)
            cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
            dx, dy = dx * cosine + dy * sine, dy * cosine - dx * sine
        return np.sqrt((dx / np.float32(rx)) ** 2 + (dy / np.float32(ry)) ** 2) - np.float32(1)

    def stroke(self, points: list[tuple[float, float]], width: float) -> Plane:
        """Return the mask of a line through *points*."""
        nearest = np.full(self.x.shape, 9, dtype=np.float32)
        for (ax, ay), (bx, by) in pairwise(points):
            dx, dy = np.float32(bx - ax), np.float32(by - ay)
            length = dx * dx + dy * dy + np.float32(1e-9)
            px, py = self.x - np.float32(ax), self.y - np.float32(ay)
            along = np.clip((px * dx + py * dy) / length, 0, 1)
            np.minimum(nearest, (px - along * dx) ** 2 + (py - along * dy) ** 2, out=nearest)
        return self.inside(np.sqrt(nearest) - np.float32(width / 2))

    def spots(self, centres: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]) -> Plane:
        """Return the mask of many small discs, centres [n, 2] and radii [n]; the maximum where they overlap."""
        # Each in its own small window: the pose keeps circles round, so pixel distances suffice.
        pixel = self._pose.scale * self.size / 2
        columns, rows = self._pixels(centres)
        half = int(np.ceil((radii.max() + 0.03) * pixel)) + 1
        window = np.arange(-half, half + 1)
        v, u = (np.round(at).astype(int)[:, None] + window for at in (rows, columns))
        away = np.hypot((v - rows[:, None])[:, :, None], (u - columns[:, None])[:, None, :]) / pixel
        discs = self.inside((away - radii[:, None, None]).astype(np.float32))
        mask = np.zeros((self.size + 2, self.size + 2), dtype=np.float32)
        v, u = (np.clip(at, -1, self.size) + 1 for at in (v, u))
        np.maximum.at(mask, (np.broadcast_to(v[:, :, None], discs.shape), u[:, None, :]), discs)
        return mask[1:-1, 1:-1]

    def _pixels(self, centres: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the columns and rows of points [n, 2] after the pose."""
        angle, (cx, cy) = np.deg2rad(self._pose.degrees), centres.T
        u = (cx * np.cos(angle) - cy * np.sin(angle)) * self._pose.scale + self._pose.shift_x
        v = (cx * np.sin(angle) + cy * np.cos(angle)) * self._pose.scale + self._pose.shift_y
        return (u + 1) * self.size / 2 - 0.5, (v + 1) * self.size / 2 - 0.5

    def clouds(self, cells: int) -> Plane:
        """Return smooth noise with a standard deviation of about one and *cells* cells on a side."""
        coarse = Image.fromarray(self.rng.standard_normal((cells, cells)).astype(np.float32))
        return np.asarray(coarse.resize((self.size, self.size), Image.Resampling.BICUBIC), dtype=np.float32)

    def mirrored(self) -> Plane:
        """Return the distance from the midline."""
        return np.abs(self.x)


def blend(image: Plane, mask: Plane, colour: tuple[float, float, float]) -> Plane:
    """Blend *colour* into a colour *image*, weighted by *mask*."""
    weight = mask[..., None]
    return (image * (1 - weight) + np.array(colour, np.float32) * weight).astype(np.float32)
