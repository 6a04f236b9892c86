"""Find volumes that were sent again under other UIDs: same positions and orientation, same pixels."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING, BinaryIO

from db.studies.transfer_syntaxes import DEFLATED
from worker.images.errors import Unreadable
from worker.images.select.groups import VOLUMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.images.decode.header import Header
    from worker.images.select.candidates import Candidate

#: Bytes compared at the start, middle and end of an object's pixels: a slice has less, a multi-frame object more.
_MAX_COMPARED = 1 << 20


def copies_of(candidates: Sequence[Candidate]) -> set[str]:
    """Return the SOP Instance UIDs of the series that repeat an earlier one of *candidates*.

    Pixels are read only of series whose slices agree in number, size, position and orientation.
    """
    series: dict[str, list[Candidate]] = defaultdict(list)
    for item in candidates:
        if item.family in VOLUMES:
            series[item.series].append(item)
    alike: dict[tuple[object, ...], list[list[Candidate]]] = defaultdict(list)
    for items in series.values():
        ordered = sorted(items, key=lambda item: item.header.numbers("ImagePositionPatient"))
        alike[_geometry(ordered)].append(ordered)
    return {
        item.sop_instance_uid for one in alike.values() if len(one) > 1 for items in _repeated(one) for item in items
    }


def _geometry(ordered: Sequence[Candidate]) -> tuple[object, ...]:
    header = ordered[0].header
    size = header.integer("Rows"), header.integer("Columns"), header.frames
    # With another orientation, the same pixels may show another side as the left one.
    orientation = header.of_frames([0])[0].numbers("ImageOrientationPatient")
    return ordered[0].family, *size, orientation, *(item.header.numbers("ImagePositionPatient") for item in ordered)


def _repeated(alike: Sequence[list[Candidate]]) -> list[list[Candidate]]:
    """Return the series whose first, middle and last slice equal those of an earlier series."""
    seen: set[bytes] = set()
    repeated = []
    for items in alike:
        digest = hashlib.sha256()
        for place in (0, len(items) // 2, -1):
            digest.update(_pixels(items[place].header))
        if digest.digest() in seen:
            repeated.append(items)
        seen.add(digest.digest())
    return repeated


def _pixels(header: Header) -> bytes:
    """Return the encoded pixels, of a large object parts; the path of an object whose pixels are not in its file.

    The first frames of two different maps can be equal: empty.
    """
    try:
        if header.syntax in DEFLATED:
            return str(header.path).encode()
        element = header.pixel_data()
        with header.path.open("rb") as file:
            return b"".join(_read(file, place, element.end) for place in _places(element.start, element.end))
    except (OSError, Unreadable):
        return str(header.path).encode()


def _places(start: int, end: int) -> Sequence[int]:
    if end - start <= _MAX_COMPARED:
        return (start,)
    return start, (start + end - _MAX_COMPARED) // 2, end - _MAX_COMPARED


def _read(file: BinaryIO, place: int, end: int) -> bytes:
    file.seek(place)
    return file.read(min(end - place, _MAX_COMPARED))
