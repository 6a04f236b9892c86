"""Which way slices face: normals of Image Orientation (Patient), PS3.3 C.7.6.2.1.1."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    #: Of unit length; its largest part is positive.
    Direction = tuple[float, float, float]

#: Length of a normal below which the two directions are none, or the same.
_LEAST = 0.1
#: Cosine of the angle, 8 degrees, below which slices face the same way: scanners write the last digits differently.
_ALIKE = 0.99
#: Ways one study may face; radial acquisitions have some 30.
_MOST = 64


class Directions:
    """The ways the slices of a study face, each once."""

    def __init__(self) -> None:
        self._known: dict[tuple[float, ...], Direction | None] = {}
        self._different: list[Direction] = []

    def of(self, cosines: tuple[float, ...]) -> Direction | None:
        """The normal of a slice, or the earlier one nearly the same or its opposite; None where there is none."""
        if len(cosines) != 6:  # noqa: PLR2004 - two directions
            return None
        if cosines not in self._known:
            normal = _normal(cosines)
            self._known[cosines] = None if normal is None else self._earlier(normal)
        return self._known[cosines]

    def _earlier(self, normal: Direction) -> Direction | None:
        alike = (other for other in self._different if abs(along(other, normal) or 0.0) > _ALIKE)
        found = next(alike, None)
        if found is None and len(self._different) < _MOST:
            self._different.append(found := normal)
        return found


def along(normal: Direction | None, origin: Sequence[float]) -> float | None:
    """Where a point lies along a normal; None where either is not given."""
    if normal is None or len(origin) != len(normal):
        return None
    return normal[0] * origin[0] + normal[1] * origin[1] + normal[2] * origin[2]


def _normal(cosines: tuple[float, ...]) -> Direction | None:
    (a, b, c), (d, e, f) = cosines[:3], cosines[3:]
    across = b * f - c * e, c * d - a * f, a * e - b * d
    length = math.hypot(*across) * math.copysign(1.0, max(across, key=abs))
    if not _LEAST < abs(length) < math.inf:
        return None
    return across[0] / length, across[1] / length, across[2] / length
