"""Extent of slices along the body, by which series of one region are told from others (PS3.3 C.7.6.2.1.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from worker.images.decode.header import Header
    from worker.images.select.candidates import Candidate

    #: Lowest and highest coordinate towards the head, in mm.
    Extent = tuple[float, float]

_Item = TypeVar("_Item")

#: Share of the shorter extent that two series of one region have in common.
_MIN_COMMON = 0.5


class Place(NamedTuple):
    """Place of slices in the patient, as far as the headers say."""

    frame_of_reference: str
    extent: Extent | None

    def is_of(self, other: Place) -> bool | None:
        """Return whether both are the same place; None if unknown."""
        frames = {self.frame_of_reference, other.frame_of_reference}
        if len(frames) > 1 and "" not in frames:
            return False
        if self.extent and other.extent:
            return same_extent(self.extent, other.extent)
        return None if "" in frames else True


def place_of(items: Sequence[Candidate]) -> Place:
    """Return the place of slices of one series, at least one."""
    return Place(items[0].header.text("FrameOfReferenceUID"), extent_of(items))


def in_distinct_places(items: Iterable[_Item], place: Callable[[_Item], Place]) -> list[_Item]:
    """Return the items none of which lies where an earlier one lies, or may lie."""
    found: dict[Place, _Item] = {}
    for item in items:
        own = place(item)
        if all(own.is_of(other) is False for other in found):
            found[own] = item
    return list(found.values())


def extent_of(items: Iterable[Candidate]) -> Extent | None:
    """Return the extent of the corners of all slices; None if no position is known."""
    heights = [height for item in items for header in headers_of(item.header) for height in _corners(header)]
    return (min(heights), max(heights)) if heights else None


def headers_of(header: Header) -> Iterable[Header]:
    """Return one header for each frame of an object."""
    return header.of_frames([0]).values() if header.frames == 1 else header.by_frame()


def same_extent(one: Extent | None, other: Extent | None) -> bool:
    """Return whether both are known and share at least half of the shorter one."""
    if one is None or other is None:
        return False
    common = min(one[1], other[1]) - max(one[0], other[0])
    return common >= 0 and common >= _MIN_COMMON * min(one[1] - one[0], other[1] - other[0])


def _corners(header: Header) -> Iterator[float]:
    position, spacing = header.numbers("ImagePositionPatient"), header.numbers("PixelSpacing")
    axes = header.numbers("ImageOrientationPatient")
    if len(position) != 3:  # noqa: PLR2004 - coordinates
        return
    yield position[2]
    if len(axes) == 6 and len(spacing) == 2:  # noqa: PLR2004 - two directions
        right = axes[2] * spacing[1] * header.integer("Columns")
        down = axes[5] * spacing[0] * header.integer("Rows")
        yield from (position[2] + right, position[2] + down, position[2] + right + down)
