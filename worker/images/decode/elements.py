"""Walk over the top level of a DICOM data set without reading what nobody asked for (PS3.5 section 7).

pydicom builds an object for every element, nested ones included: ten megabytes of empty elements cost it seconds and
gigabytes, six thousand nested sequences a RecursionError. This walk keeps a position and a small stack, so a hostile
header costs no more than its own length, and the headers of a 600-slice CT cost a tenth of decoding them.
"""

from __future__ import annotations

import struct
from string import ascii_uppercase
from typing import TYPE_CHECKING, NamedTuple

from db.errors import Reason
from db.limits import MAX_ELEMENTS, MAX_NESTING
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator, Mapping

    Buffer = mmap.mmap | bytes
    #: Elements by tag: the VR each was written with, whether its length was undefined, and its bytes.
    Values = dict[int, tuple[bytes, bool, bytes]]

UNDEFINED = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_ENDS = frozenset({_ITEM_END, _SEQUENCE_END})
#: VRs whose length takes four bytes after two reserved ones (PS3.5 table 7.1-1).
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT = frozenset(f"{a}{b}".encode() for a in ascii_uppercase for b in ascii_uppercase) - _LONG
_NONE: frozenset[bytes] = frozenset()
_TAG_LENGTH = {True: struct.Struct("<HHL"), False: struct.Struct(">HHL")}
_TAG_VR_LENGTH = {True: struct.Struct("<HH2sH"), False: struct.Struct(">HH2sH")}
_LENGTH = {True: struct.Struct("<L"), False: struct.Struct(">L")}


class Encoding(NamedTuple):
    """How elements are written: with or without VRs, and in which byte order."""

    implicit: bool
    little_endian: bool


class Element(NamedTuple):
    """Where one element lies in its buffer; *length* is UNDEFINED where only *end*, found by walking, says it."""

    tag: int
    vr: bytes
    start: int
    length: int
    end: int


def collect(
    buffer: Buffer, position: int, encoding: Encoding, *, end: int, wanted: Mapping[int, int]
) -> tuple[Values, Element | None]:
    """The *wanted* elements of one data set from *position* on, and its Pixel Data, where it stops.

    *wanted* says for each tag how long its value may be; longer ones are passed over. *end* may lie behind the end of
    the buffer. Pixel Data of undefined length ends there: its fragments are for the decoder to count. Raises Unreadable
    where an element runs past *end*, or any but Pixel Data past the buffer.
    """
    values: Values = {}
    # What is common is written out: calls, generators and named tuples take two thirds of the time.
    unpack, short = _TAG_VR_LENGTH[encoding.little_endian].unpack_from, _NONE if encoding.implicit else _SHORT
    held, seen = len(buffer), 0
    last = min(end, held) - 8
    while position <= last:
        group, number, vr, length = unpack(buffer, position)
        if vr in short:
            tag, start = group << 16 | number, position + 8
        else:
            tag, vr, length, start = head(buffer, position, encoding)
        if tag >= PIXEL_DATA and (tag == PIXEL_DATA or tag in _ENDS):
            stop = end if length == UNDEFINED else start + length
            return values, Element(tag, vr, start, length, stop) if tag == PIXEL_DATA else None
        position = start + length
        if length == UNDEFINED:
            position, seen = _past(buffer, start, inside(vr, encoding), seen)
        seen += 1
        if position > end or seen > MAX_ELEMENTS:
            raise Unreadable(Reason.TRUNCATED, "the header is truncated")
        if tag in wanted and position - start <= wanted[tag]:
            if position > held:
                raise Unreadable(Reason.TRUNCATED, "the header is truncated")
            values[tag] = vr, length == UNDEFINED, buffer[start:position]
    if position + 8 <= end:
        raise Unreadable(Reason.TRUNCATED, "the header is truncated")
    return values, None


def walk(buffer: Buffer, position: int, encoding: Encoding, *, end: int) -> Iterator[Element]:
    """Every element of one data set from *position* up to Pixel Data. Raises Unreadable where one runs past *end*."""
    seen = 0
    while position + 8 <= end:
        tag, vr, length, start = head(buffer, position, encoding)
        if tag == PIXEL_DATA or tag in _ENDS:
            return
        position = start + length
        if length == UNDEFINED:
            position, seen = _past(buffer, start, inside(vr, encoding), seen)
        seen += 1
        if position > end or seen > MAX_ELEMENTS:
            raise Unreadable(Reason.TRUNCATED, "the header is truncated")
        yield Element(tag, vr, start, length, position)


def items(buffer: Buffer, start: int, end: int, encoding: Encoding) -> Iterator[tuple[int, int]]:
    """Where the items of a sequence's value begin and end."""
    seen = 0
    while start + 8 <= end:
        tag, _, length, start = head(buffer, start, encoding)
        if tag != _ITEM:
            return
        after = start + length
        if length == UNDEFINED:
            after, seen = _past(buffer, start, encoding, seen)
        if after > end:
            raise Unreadable(Reason.TRUNCATED, "a sequence item is longer than its sequence")
        yield start, after
        start = after


def inside(vr: bytes, encoding: Encoding) -> Encoding:
    """How a value of undefined length is written: UN holds implicit little endian always (PS3.5 6.2.2)."""
    return Encoding(implicit=True, little_endian=True) if vr == b"UN" else encoding


def head(buffer: Buffer, position: int, encoding: Encoding) -> tuple[int, bytes, int, int]:
    """Tag, VR, length and start of the value at *position*; without a VR of two letters read as implicit."""
    if position + 8 > len(buffer):
        raise Unreadable(Reason.TRUNCATED, "the header is truncated")
    implicit, little = encoding
    group, number, vr, length = _TAG_VR_LENGTH[little].unpack_from(buffer, position)
    # Items have no VR: the lower half of an item's length may well spell two letters.
    written = not implicit and group != _ITEM >> 16
    if written and vr in _SHORT:
        return group << 16 | number, vr, length, position + 8
    if not written or vr not in _LONG:
        return group << 16 | number, b"", _TAG_LENGTH[little].unpack_from(buffer, position)[2], position + 8
    if position + 12 > len(buffer):
        raise Unreadable(Reason.TRUNCATED, "the header is truncated within an element")
    return group << 16 | number, vr, _LENGTH[little].unpack_from(buffer, position + 8)[0], position + 12


def _past(buffer: Buffer, position: int, encoding: Encoding, seen: int) -> tuple[int, int]:
    """The position after an undefined-length value that starts at *position*, and the elements seen so far.

    Delimiters close whatever was opened last, so a flat loop with a stack is enough for any depth.
    """
    opened = [encoding]
    while opened:
        if position + 8 > len(buffer) or seen > MAX_ELEMENTS:
            raise Unreadable(Reason.TRUNCATED, "a sequence in the header has no end")
        if len(opened) > MAX_NESTING:
            raise Unreadable(Reason.MALFORMED, f"sequences are nested more than {MAX_NESTING} levels deep")
        tag, vr, length, start = head(buffer, position, opened[-1])
        position = start
        if tag in _ENDS:
            opened.pop()
            continue
        seen += 1
        if length != UNDEFINED:
            position += length
        else:
            opened.append(inside(vr, opened[-1]))
    return position, seen
