"""Directions of a frame's rows and columns in the patient, as its header states them.

Image Orientation (Patient), PS3.3 C.7.6.2.1.1, also of one frame (C.7.6.16.2.4) or of a detector (C.8.4.11); else
Patient Orientation, C.7.6.1.1.1. Field of View Rotation and Horizontal Flip (C.8.11.4) relate pixels to the detector,
not to the patient, and are not used: Patient Orientation describes the pixels as stored, after both.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from worker.images.decode.header import Header

    #: Unit vector: x to the patient's left, y to the back, z to the head.
    Direction = tuple[float, float, float]

MISSING = "the orientation is not given"
IMPOSSIBLE = "the orientation in the header is impossible"
CONTRADICTORY = "the header gives two contradictory orientations"

#: Deviation of a length from 1, and of a cosine from 0, that the digits of a Decimal String explain.
_TOLERANCE = 0.02
#: Length below which a direction is unknown; cosine above which two directions do not span a plane.
_MIN_LENGTH, _MAX_COSINE = 0.1, 0.9
#: Cosine above which the rows and columns of Patient Orientation cannot be perpendicular, however oblique.
_MAX_LETTERS_COSINE = 0.55
#: Cosine of the two statements of one direction below which they differ: an oblique row agrees with its first letter.
_MIN_AGREEMENT = 0.3
#: Part of the second and third letter of a direction: in order of size (C.7.6.1.1.1).
_PARTS = (1.0, 0.5, 0.25)
#: Part of a direction below which it has no letter.
_MIN_PART = 0.2

_BIPED = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "H": (2, 1), "F": (2, -1)}
#: The other abbreviations (rostral, medial, palmar ...) are relative to a part of the body.
_QUADRUPED = {"LE": (0, 1), "RT": (0, -1), "D": (1, 1), "V": (1, -1), "CR": (2, 1), "CD": (2, -1)}
_LETTERS = {place: letter for letter, place in _BIPED.items()}


class Axes(NamedTuple):
    """Directions of the rows (first to last column) and of the columns (top to bottom)."""

    row: Direction
    column: Direction

    @property
    def normal(self) -> Direction:
        """Direction perpendicular to both."""
        (a, b, c), (d, e, f) = self
        return b * f - c * e, c * d - a * f, a * e - b * d

    def written(self) -> str:
        """Return the axes as Patient Orientation writes them: L and F for a usual frontal image."""
        return "\\".join(map(_letters, self))


def edges(axes: Axes) -> dict[str, str]:
    """Return the letters of the patient's directions at the four edges of an image: A, P, H, F, L, R."""
    return {
        "left": _letters(_opposite(axes.row)),
        "right": _letters(axes.row),
        "top": _letters(_opposite(axes.column)),
        "bottom": _letters(axes.column),
    }


class Stated(NamedTuple):
    """The axes a header states, the keyword of the attribute, and the problem of the statement; empty if none."""

    axes: Axes | None
    source: str
    problem: str


def stated_axes(header: Header, frame: int = 0) -> Stated:
    """Return the axes of *frame*, whose own header *header* is."""
    image, problem = _image_orientation(header, frame)
    patient, other = _patient_orientation(header)
    if image is None:
        return Stated(
            patient, "PatientOrientation" if patient else "", problem or other or ("" if patient else MISSING)
        )
    if not problem and patient and not _agree(image, patient):
        problem = CONTRADICTORY
    return Stated(image, "ImageOrientationPatient", problem)


def dot(one: Direction, other: Direction) -> float:
    """Return the scalar product: the cosine of the angle between unit vectors."""
    return one[0] * other[0] + one[1] * other[1] + one[2] * other[2]


def axes_of(cosines: tuple[float, ...]) -> Axes | None:
    """Return the axes of six direction cosines; None if they do not span a plane."""
    if len(cosines) != 6:  # noqa: PLR2004 - two directions
        return None
    row, column = _unit(cosines[:3]), _unit(cosines[3:])
    return Axes(row, column) if row and column and abs(dot(row, column)) < _MAX_COSINE else None


def _image_orientation(header: Header, frame: int) -> tuple[Axes | None, str]:
    header = _of_detector(header, frame)
    if not header.text("ImageOrientationPatient"):
        return None, ""
    cosines = header.numbers("ImageOrientationPatient")
    axes = axes_of(cosines)
    if axes is None:
        return None, IMPOSSIBLE
    lengths = math.hypot(*cosines[:3]), math.hypot(*cosines[3:])
    deviation = max(abs(dot(*axes)), *(abs(length - 1) for length in lengths))
    return axes, IMPOSSIBLE if deviation > _TOLERANCE else ""


def _of_detector(header: Header, frame: int) -> Header:
    """Return the item of a nuclear medicine frame's detector, which holds its orientation (C.8.4.11)."""
    if "ImageOrientationPatient" in header or "DetectorInformationSequence" not in header:
        return header
    detectors, vector = header.items("DetectorInformationSequence"), header.numbers("DetectorVector")
    number = int(vector[frame]) - 1 if frame < len(vector) else 0
    return detectors[number] if 0 <= number < len(detectors) else header


def _patient_orientation(header: Header) -> tuple[Axes | None, str]:
    values = [value.upper() for value in header.texts("PatientOrientation")]
    if not any(values):
        return None, ""
    known = _QUADRUPED if header.code("AnatomicalOrientationType") == "QUADRUPED" else _BIPED
    directions = [_direction(value, known) for value in values]
    if len(directions) != 2:  # noqa: PLR2004 - rows, columns
        return None, IMPOSSIBLE
    row, column = directions
    if row is None or column is None or abs(dot(row, column)) > _MAX_LETTERS_COSINE:
        return None, IMPOSSIBLE
    return Axes(row, column), ""


def _direction(letters: str, known: dict[str, tuple[int, int]]) -> Direction | None:
    """Return the direction of up to three abbreviations, one for each axis of the patient; None for others."""
    found = re.findall("|".join(sorted(known, key=len, reverse=True)), letters)
    if "".join(found) != letters or not found or len({known[letter][0] for letter in found}) < len(found):
        return None
    parts = [0.0, 0.0, 0.0]
    for letter, part in zip(found, _PARTS, strict=False):
        axis, sign = known[letter]
        parts[axis] = sign * part
    return _unit(tuple(parts))


def _unit(parts: tuple[float, ...]) -> Direction | None:
    x, y, z = parts
    length = math.hypot(x, y, z)
    return (x / length, y / length, z / length) if _MIN_LENGTH < length < math.inf else None


def _opposite(direction: Direction) -> Direction:
    x, y, z = direction
    return -x, -y, -z


def _agree(one: Axes, other: Axes) -> bool:
    return min(dot(one.row, other.row), dot(one.column, other.column)) >= _MIN_AGREEMENT


def _letters(direction: Direction) -> str:
    ranked = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    return "".join(
        _LETTERS[axis, 1 if direction[axis] > 0 else -1] for axis in ranked if abs(direction[axis]) >= _MIN_PART
    )
