"""Turn a frame to the usual presentation, by the directions that its header states.

Axial and frontal images have the patient's left at the right; axial ones the front above, all others the feet below;
sagittal images the front at the left. Mammograms have the chest wall at the left for the left breast, at the right for
the right one, and the axilla or the outer half above. A header that does not state the directions, or contradicts
itself, is a problem named in the report.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from worker.images.decode.patient_axes import MISSING, Axes, axes_of, dot, stated_axes

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.images.decode.header import Header
    from worker.images.decode.patient_axes import Direction

    Pixels = npt.NDArray[np.uint8]
    Plane = Literal["axial", "coronal", "sagittal"]

WRONG_VIEW = "the orientation in the header contradicts its view"
NO_BREAST = "the side of the breast is not given"
TWO_SIDES = "the header names both sides for one image"
WRONG_BREAST = "the orientation in the header contradicts the side of the breast"

#: Modalities of light and ultrasound: their images are presented as the examiner made them.
_AS_STORED = frozenset({"SM", "GM", "XC", "DMS", "ES", "OP", "OPT", "OPM", "OAM", "OCT", "US", "BDUS", "IVUS", "IVOCT"})
#: Modalities of the body's inside, in colour too; other colour images are photographs or screens.
_RADIOLOGICAL = frozenset({"CR", "DX", "RG", "MG", "PX", "CT", "MR", "PT", "NM", "XA", "RF"})
_RADIOGRAPHS, _FLUOROSCOPY = frozenset({"CR", "DX", "RG"}), frozenset({"XA", "RF"})
_FRONTAL_VIEWS, _LATERAL_VIEWS = frozenset({"PA", "AP"}), frozenset({"LL", "RL", "LAT", "LATERAL"})
_MLO = frozenset({"399368009", "R-10226"})
#: Parts shown with the fingers above or below; their letters refer to hanging arms (PS3.17 annex A).
_ARM = re.compile(r"HAND|WRIST|FINGER|THUMB|CARP|FOREARM|RADIUS|ULNA|ELBOW|HUMERUS|\bARM\b")
#: Parts whose radiographs are never axial; those of feet, shoulders and skulls can be.
_TRUNK = re.compile(r"CHEST|THORAX|LUNG|HEART|ABDOMEN|PELVIS|SPINE")

_LEFT, _BACK, _FEET, _HEAD = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (0.0, 0.0, 1.0)
_USUAL: dict[Plane, Axes] = {
    "axial": Axes(_LEFT, _BACK),
    "coronal": Axes(_LEFT, _FEET),
    "sagittal": Axes(_BACK, _FEET),
}
#: Downwards in the views of a left breast: inwards in a craniocaudal one, to the feet in a lateral one, both in an
#: oblique one.
_DOWN_LEFT_BREAST = (-0.6, 0.0, -0.8)
#: Part of a direction that is certainly not a rounding error.
_MIN_OBLIQUE = 0.1


class Turn(NamedTuple):
    """One of the eight ways to place a rectangle: rows and columns exchanged first, then the two reversals."""

    transposed: bool = False
    left_right: bool = False
    top_bottom: bool = False

    @property
    def name(self) -> str:
        """Stable name in the recorded transform; rotations are clockwise."""
        return _TURN_NAMES[self]

    def of_axes(self, axes: Axes) -> Axes:
        """Return the axes of an image after this turn."""
        row, column = (axes.column, axes.row) if self.transposed else axes
        return Axes(_reversed(row) if self.left_right else row, _reversed(column) if self.top_bottom else column)

    def of_pixels(self, pixels: Pixels) -> Pixels:
        """Return an image, [rows, columns] or [rows, columns, 3], after this turn; contiguous."""
        turned = pixels.swapaxes(0, 1) if self.transposed else pixels
        turned = turned[:, ::-1] if self.left_right else turned
        return np.ascontiguousarray(turned[::-1] if self.top_bottom else turned)


UNTURNED = Turn()
_TURN_NAMES = {
    UNTURNED: "none",
    Turn(left_right=True): "flip_horizontal",
    Turn(top_bottom=True): "flip_vertical",
    Turn(left_right=True, top_bottom=True): "rotate_180",
    Turn(transposed=True, left_right=True): "rotate_90",
    Turn(transposed=True, top_bottom=True): "rotate_270",
    Turn(transposed=True): "transpose",
    Turn(transposed=True, left_right=True, top_bottom=True): "transverse",
}


@dataclass(frozen=True, slots=True)
class Orientation:
    """Turn of one image, the axes it starts from, the attribute that states them, and the problem of the statement."""

    turn: Turn = UNTURNED
    axes: Axes | None = None
    source: str = ""
    problem: str = ""

    def recorded(self) -> dict[str, Any]:
        """Return the steps for JSON; empty if the header states no orientation and none is expected."""
        stated = {}
        if self.axes:
            stated = {
                "source": self.source,
                "from": self.axes.written(),
                "to": self.turn.of_axes(self.axes).written(),
                "turn": self.turn.name,
            }
        problem = {"problem": self.problem} if self.problem else {}
        return {"orientation": {**stated, **problem}} if stated or problem else {}


def orientation_of(header: Header, frame: int, modality: str, *, volume: tuple[float, ...] = ()) -> Orientation:
    """Return the orientation of *frame*, whose own header *header* is.

    *volume* is Image Orientation (Patient) of the volume: slices near 45 degrees are turned after it, all the same way.
    """
    if modality in _AS_STORED:
        return Orientation()
    axes, source, problem = stated_axes(header, frame)
    if axes is None:
        return Orientation(problem=problem if _side_matters(header, modality, problem) else "")
    if modality == "MG":
        target, contradiction = _of_breast(header, axes)
    else:
        contradiction = TWO_SIDES if len(_sides(header)) > 1 else _contradiction(header, axes, modality)
        target = _of_volume(volume) or _of_body(header, axes, modality)
    return Orientation(best_turn(axes, target), axes, source, problem or contradiction)


def best_turn(axes: Axes, target: Axes) -> Turn:
    """Return the turn after which *axes* are nearest to *target*."""

    def nearness(turn: Turn) -> float:
        row, column = turn.of_axes(axes)
        return dot(row, target.row) + dot(column, target.column)

    return max(_TURN_NAMES, key=nearness)


def plane_of(normal: Direction) -> Plane:
    """Return the plane that an image with this normal is nearest to."""
    x, y, z = map(abs, normal)
    return "axial" if z >= max(x, y) else "coronal" if y >= x else "sagittal"


def _reversed(direction: Direction) -> Direction:
    return -direction[0], -direction[1], -direction[2]


def _side_matters(header: Header, modality: str, problem: str) -> bool:
    """Return whether a side may be read from an image without known axes; a lateral view shows none."""
    if problem == MISSING and modality in _RADIOGRAPHS and header.code("ViewPosition") in _LATERAL_VIEWS:
        return False
    return modality in _RADIOLOGICAL or header.integer("SamplesPerPixel", 1) == 1


def _of_volume(cosines: tuple[float, ...]) -> Axes | None:
    axes = axes_of(cosines)
    return best_turn(axes, _USUAL[plane_of(axes.normal)]).of_axes(axes) if axes else None


def _of_body(header: Header, axes: Axes, modality: str) -> Axes:
    plane = plane_of(axes.normal)
    usual = _USUAL["coronal" if _is_oblique(axes, modality) else plane]
    if plane == "sagittal" and (modality == "IO" or header.code("AnatomicalOrientationType") == "QUADRUPED"):
        return axes  # teeth are presented by side, animals lying: the header says neither
    if plane != "axial" and modality in _RADIOGRAPHS and axes.column[2] > 0 and _ARM.search(_part(header)):
        return Axes(usual.row, _HEAD)
    return usual


def _is_oblique(axes: Axes, modality: str) -> bool:
    """Return whether a radiograph lies between lateral and frontal, and so shows both sides: as if facing the patient.

    The order of the letters of an oblique view near 45 degrees is arbitrary.
    """
    shows_sides = max(abs(axes.row[0]), abs(axes.column[0])) > _MIN_OBLIQUE
    return modality in _RADIOGRAPHS | _FLUOROSCOPY and plane_of(axes.normal) == "sagittal" and shows_sides


def _part(header: Header) -> str:
    meaning = next((item.text("CodeMeaning") for item in header.items("AnatomicRegionSequence")), "")
    return f"{header.text('BodyPartExamined')} {meaning}".upper()


def _contradiction(header: Header, axes: Axes, modality: str) -> str:
    """Return the problem of a frontal view with the directions of a lateral one, the reverse, or of an axial trunk."""
    view, plane, part = header.code("ViewPosition"), plane_of(axes.normal), _part(header)
    if plane == "axial":
        impossible = modality in _FLUOROSCOPY or (modality in _RADIOGRAPHS and _TRUNK.search(part))
    elif plane == "sagittal":
        impossible = view in _FRONTAL_VIEWS and not _is_oblique(axes, modality) and not _ARM.search(part)
    else:
        impossible = view in _LATERAL_VIEWS
    return WRONG_VIEW if impossible else ""


def _of_breast(header: Header, axes: Axes) -> tuple[Axes, str]:
    """Return the presentation of a mammogram, by side and view; its own axes if these are unknown."""
    if max(abs(axes.row[1]), abs(axes.column[1])) < 0.5:  # noqa: PLR2004 - neither runs to the nipple
        return axes, WRONG_VIEW
    sides = _sides(header)
    if len(sides) != 1:
        return axes, TWO_SIDES if sides else NO_BREAST
    (side,) = sides
    x, y, z = _DOWN_LEFT_BREAST
    target = Axes((0.0, -1.0, 0.0), (x, y, z)) if side == "L" else Axes(_BACK, (-x, y, z))
    return target, "" if _fits(header, axes, side) else WRONG_BREAST


def _sides(header: Header) -> set[str]:
    """Return the sides that the lateralities in the header name: of a paired part, one."""
    return {header.code(word)[:1] for word in ("ImageLaterality", "FrameLaterality", "Laterality")} & {"L", "R"}


def laterality_of(header: Header) -> str:
    """Return the side that the header names, `L` or `R`; `B` for both, and empty if it names none."""
    sides = {header.code(word)[:1] for word in ("ImageLaterality", "FrameLaterality", "Laterality")} & {"L", "R", "B"}
    return sides.pop() if len(sides) == 1 else "B" if sides else ""


def _fits(header: Header, axes: Axes, side: str) -> bool:
    """Return false for a mediolateral oblique view of the other breast: such a plane leans inwards, to the feet."""
    codes = {item.text("CodeValue") for item in header.items("ViewCodeSequence")}
    if header.code("ViewPosition") != "MLO" and codes.isdisjoint(_MLO):
        return True
    x, _, z = max(axes, key=lambda axis: abs(axis[2]))
    return x * z * (1 if side == "L" else -1) > -_MIN_OBLIQUE
