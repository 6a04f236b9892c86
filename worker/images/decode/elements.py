"""Walk the top level of a DICOM data set and read only the wanted elements (PS3.5 section 7).

pydicom builds an object for every element, nested ones included: ten megabytes of empty elements cost it seconds and
gigabytes, six thousand nested sequences a RecursionError. This walk keeps a position and a small stack, so a hostile
header costs no more than its own length. The listener has a different one: docs/decisions/header-walkers.md.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from db.errors import Reason
from db.limits import MAX_ELEMENTS, MAX_NESTING
from db.studies.element_headers import DELIMITERS, ITEM, LONG_VRS, SHORT_VRS, UNDEFINED, Undecided, is_long, layout_of
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator, Mapping

    Buffer = mmap.mmap | bytes
    #: Elements by tag: VR as written, whether the length was undefined, bytes of the value.
    Values = dict[int, tuple[bytes, bool, bytes]]

PIXEL_DATA = 0x7FE00010
#: Float and Double Float Pixel Data, of which an object has one instead of Pixel Data (PS3.3 C.7.6.24, C.7.6.25).
FLOAT_PIXELS = frozenset((0x7FE00008, 0x7FE00009))
_PIXELS = FLOAT_PIXELS | {PIXEL_DATA}

_FIRST_PIXELS = min(_PIXELS)
_NONE: frozenset[bytes] = frozenset()
_TAG_LENGTH = {True: struct.Struct("<HHL"), False: struct.Struct(">HHL")}
_TAG_VR_LENGTH = {True: struct.Struct("<HH2sH"), False: struct.Struct(">HH2sH")}
_LENGTH = {True: struct.Struct("<L"), False: struct.Struct(">L")}


class Encoding(NamedTuple):
    """Encoding of elements: implicit or explicit VR, and byte order."""

    implicit: bool
    little_endian: bool


class Element(NamedTuple):
    """Position of one element in its buffer; if *length* is UNDEFINED, *end* was found by walking."""

    tag: int
    vr: bytes
    start: int
    length: int
    end: int


def collect(
    buffer: Buffer, position: int, encoding: Encoding, *, end: int, wanted: Mapping[int, int]
) -> tuple[Values, Element | None]:
    """Read the *wanted* elements of one data set from *position*, and locate its Pixel Data, at which the walk stops.

    Float and Double Float Pixel Data are located alike. *wanted* gives the maximum length of each tag's value in bytes;
    longer values are skipped. *end*, that of the data set, may lie beyond the buffer. Pixel Data of undefined length
    extends to *end*: its fragments are read later. Raises Unreadable if an element extends beyond *end*, or one other
    than Pixel Data beyond the buffer.
    """
    values: Values = {}
    # The common case is written out: calls, generators and named tuples take two thirds of the time.
    unpack, short = _TAG_VR_LENGTH[encoding.little_endian].unpack_from, _NONE if encoding.implicit else SHORT_VRS
    available, count = len(buffer), 0
    last = min(end, available) - 8
    while position <= last:
        group, number, vr, length = unpack(buffer, position)
        if vr in short:
            tag, start = group << 16 | number, position + 8
        else:
            tag, vr, length, start = element_header(buffer, position, encoding, end)
        if tag >= _FIRST_PIXELS and (tag in _PIXELS or tag in DELIMITERS):
            stop = end if length == UNDEFINED else start + length
            return values, Element(tag, vr, start, length, stop) if tag in _PIXELS else None
        position = start + length
        if length == UNDEFINED:
            position, count = _skip(buffer, start, encoding_inside(vr, encoding), count, end)
        count += 1
        if position > end or count > MAX_ELEMENTS:
            raise _beyond(count)
        if tag in wanted and position - start <= wanted[tag]:
            if position > available:
                raise Unreadable(Reason.TRUNCATED, "the header is truncated")
            values[tag] = vr, length == UNDEFINED, buffer[start:position]
    if position + 8 <= end:
        raise Unreadable(Reason.TRUNCATED, "the header is truncated")
    return values, None


def walk(buffer: Buffer, position: int, encoding: Encoding, *, end: int) -> Iterator[Element]:
    """Yield the elements of one data set from *position* to Pixel Data. Raises Unreadable if one extends past *end*."""
    count = 0
    while position + 8 <= end:
        tag, vr, length, start = element_header(buffer, position, encoding, end)
        if tag == PIXEL_DATA or tag in DELIMITERS:
            return
        position = start + length
        if length == UNDEFINED:
            position, count = _skip(buffer, start, encoding_inside(vr, encoding), count, end)
        count += 1
        if position > end or count > MAX_ELEMENTS:
            raise _beyond(count)
        yield Element(tag, vr, start, length, position)


def items(buffer: Buffer, start: int, end: int, encoding: Encoding) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each item of a sequence. Raises Unreadable if one extends beyond the sequence."""
    count = 0
    while start + 8 <= end:
        tag, _, length, start = element_header(buffer, start, encoding, end)
        if tag != ITEM:
            return
        after = start + length
        if length == UNDEFINED:
            after, count = _skip(buffer, start, encoding, count, end)
        if after > end:
            raise Unreadable(Reason.TRUNCATED, "a sequence item is longer than its sequence")
        yield start, after
        start = after


def _beyond(count: int) -> Unreadable:
    """Return the error of a walk that has passed the end of its data set, or *count* elements."""
    if count > MAX_ELEMENTS:
        return Unreadable(Reason.TOO_LARGE, f"the header has more than {MAX_ELEMENTS} elements")
    return Unreadable(Reason.TRUNCATED, "the header is truncated")


def encoding_inside(vr: bytes, encoding: Encoding) -> Encoding:
    """Return the encoding inside a value of undefined length: of UN always implicit little endian (PS3.5 6.2.2)."""
    return Encoding(implicit=True, little_endian=True) if vr == b"UN" else encoding


def element_header(buffer: Buffer, position: int, encoding: Encoding, end: int) -> tuple[int, bytes, int, int]:
    """Return tag, VR, length and start of the value of the element at *position*, in a data set or item up to *end*.

    A VR that is not known is empty: db/studies/element_headers.py. Raises Unreadable at the end of the buffer.
    """
    if position + 8 > len(buffer):
        raise Unreadable(Reason.TRUNCATED, "the header is truncated")
    implicit, little = encoding
    group, number, vr, length = _TAG_VR_LENGTH[little].unpack_from(buffer, position)
    tag = group << 16 | number
    # Items have no VR, but the lower half of their length may spell two letters.
    if implicit or group == ITEM >> 16:
        return tag, b"", _TAG_LENGTH[little].unpack_from(buffer, position)[2], position + 8
    if vr in SHORT_VRS:
        return tag, vr, length, position + 8
    if position + 12 <= len(buffer):
        (long,) = _LENGTH[little].unpack_from(buffer, position + 8)
        if is_long(vr, length, long):
            return tag, vr, long, position + 12
    elif vr in LONG_VRS and not length:
        raise Unreadable(Reason.TRUNCATED, "the header is truncated within an element")
    return _odd_header(buffer, position, encoding, end, vr)


def _odd_header(buffer: Buffer, position: int, encoding: Encoding, end: int, vr: bytes) -> tuple[int, bytes, int, int]:
    try:
        layout = layout_of(buffer, position, little_endian=encoding.little_endian, end=end)
    except Undecided:
        raise Unreadable(Reason.TRUNCATED, "the header is truncated within an element") from None
    if layout is None:
        raise Unreadable(Reason.MALFORMED, "an element of the header has neither a VR nor a valid length")
    group, number = _TAG_VR_LENGTH[encoding.little_endian].unpack_from(buffer, position)[:2]
    return group << 16 | number, vr if vr in (b"UN", b"SQ") else b"", layout.length, layout.start


def _skip(buffer: Buffer, position: int, encoding: Encoding, count: int, end: int) -> tuple[int, int]:
    """Return the end of the undefined-length value that starts at *position*, and the number of elements so far.

    A delimiter closes the level opened last, so a flat loop with a stack is enough for any depth.
    """
    opened = [encoding]
    while opened:
        if count > MAX_ELEMENTS:
            raise _beyond(count)
        if position + 8 > len(buffer):
            raise Unreadable(Reason.TRUNCATED, "a sequence in the header has no end")
        if len(opened) > MAX_NESTING:
            raise Unreadable(Reason.MALFORMED, f"sequences are nested more than {MAX_NESTING} levels deep")
        tag, vr, length, start = element_header(buffer, position, opened[-1], end)
        position = start
        if tag in DELIMITERS:
            opened.pop()
            continue
        count += 1
        if length != UNDEFINED:
            position += length
        else:
            opened.append(encoding_inside(vr, opened[-1]))
    return position, count
