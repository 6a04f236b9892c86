"""Orientations of slices: normals of Image Orientation (Patient), PS3.3 C.7.6.2.1.1."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    #: Of unit length; its largest part is positive.
    Normal = tuple[float, float, float]

#: Length of a normal below which the row and column directions are invalid: zero or parallel.
_MIN_LENGTH = 0.1
#: Cosine of 8 degrees, the angle below which orientations are the same: scanners vary the last digits.
_MIN_COSINE = 0.99
#: Orientations of one study; radial acquisitions have about 30.
_MAX_ORIENTATIONS = 64


class Orientations:
    """Distinct orientations of the slices of a study."""

    def __init__(self) -> None:
        self._known: dict[tuple[float, ...], Normal | None] = {}
        self._distinct: list[Normal] = []

    def normal_of(self, cosines: tuple[float, ...]) -> Normal | None:
        """Return the normal of a slice, or an earlier one that is parallel; None if the orientation is invalid."""
        if len(cosines) != 6:  # noqa: PLR2004 - two directions
            return None
        if cosines not in self._known:
            normal = _normal(cosines)
            self._known[cosines] = None if normal is None else self._distinct_normal(normal)
        return self._known[cosines]

    def _distinct_normal(self, normal: Normal) -> Normal | None:
        parallel = (other for other in self._distinct if abs(position_along(other, normal) or 0.0) > _MIN_COSINE)
        found = next(parallel, None)
        if found is None and len(self._distinct) < _MAX_ORIENTATIONS:
            self._distinct.append(found := normal)
        return found


def position_along(normal: Normal | None, origin: Sequence[float]) -> float | None:
    """Return the coordinate of a point along a normal, in mm; None if either is missing."""
    if normal is None or len(origin) != len(normal):
        return None
    return normal[0] * origin[0] + normal[1] * origin[1] + normal[2] * origin[2]


def _normal(cosines: tuple[float, ...]) -> Normal | None:
    (a, b, c), (d, e, f) = cosines[:3], cosines[3:]
    across = b * f - c * e, c * d - a * f, a * e - b * d
    length = math.hypot(*across) * math.copysign(1.0, max(across, key=abs))
    if not _MIN_LENGTH < abs(length) < math.inf:
        return None
    return across[0] / length, across[1] / length, across[2] / length
