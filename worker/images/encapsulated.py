"""One compressed frame out of encapsulated Pixel Data (PS3.5 A.4).

pydicom's get_frame returns what is left of a truncated fragment and lists any number of fragments; here a fragment that
runs past the end is an error, and so is a list longer than any picture needs.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from worker.images.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.images.elements import Buffer
    from worker.images.header import Header

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_LENGTH = struct.Struct("<L")
_END_OF_IMAGE = b"\xff\xd9"
#: Fragments to look through where no offset table says where a frame lies. A slide has a few 100 000 tiles.
_MAX_FRAGMENTS = 1_000_000


def frame_of(header: Header, buffer: Buffer, index: int, most: int) -> bytes:
    """The codestream of frame *index*, counted from 0, of at most *most* bytes.

    Raises Unreadable: cut short, without that frame, or larger than any honest picture of its size.
    """
    pixels = header.where_pixels_are()
    start, end = pixels.start, min(pixels.end, len(buffer))
    table = next(_fragments(buffer, start, end), (start, start))
    first = table[1]
    parts = _listed(header, buffer, index, table, end) or _searched(buffer, first, end, header.frames, index)
    if sum(stop - begin for begin, stop in parts) > most:
        raise Unreadable("too_large", "the compressed picture is larger than the same picture uncompressed")
    return b"".join(buffer[begin:stop] for begin, stop in parts)


def _fragments(buffer: Buffer, position: int, end: int) -> Iterator[tuple[int, int]]:
    """Where each fragment's bytes begin and end; the first item is the Basic Offset Table."""
    for _ in range(_MAX_FRAGMENTS):
        tag = buffer[position : position + 4]
        if tag == _END:
            return
        if tag != _ITEM:
            raise Unreadable("truncated", "the pixel data is not a sequence of compressed fragments, or is cut short")
        start = position + 8
        position = start + int.from_bytes(buffer[position + 4 : start], "little")
        if position > end:
            raise Unreadable("truncated", "the file ends within its compressed pixel data")
        yield start, position
    raise Unreadable("too_large", f"the pixel data is in more than {_MAX_FRAGMENTS} pieces")


def _listed(header: Header, buffer: Buffer, index: int, table: tuple[int, int], end: int) -> list[tuple[int, int]]:
    """The fragments an offset table gives for a frame; [] without a table."""
    first = table[1]
    offsets, lengths = header.blob("ExtendedOffsetTable"), header.blob("ExtendedOffsetTableLengths")
    if 8 * index < min(len(offsets), len(lengths)):
        begin = first + 8 + int.from_bytes(offsets[8 * index : 8 * index + 8], "little")
        stop = begin + int.from_bytes(lengths[8 * index : 8 * index + 8], "little")
        if stop > end:
            raise Unreadable("truncated", "the file ends within its compressed pixel data")
        return [(begin, stop)]
    known = (table[1] - table[0]) // 4
    if index >= known:
        return []
    begin = first + _LENGTH.unpack_from(buffer, table[0] + 4 * index)[0]
    after = first + _LENGTH.unpack_from(buffer, table[0] + 4 * index + 4)[0] if index + 1 < known else end
    found = []
    for part in _fragments(buffer, begin, end):
        found.append(part)
        if part[1] >= after:
            break
    return found


def _searched(buffer: Buffer, first: int, end: int, frames: int, index: int) -> list[tuple[int, int]]:
    """Without a table: one fragment a frame, or all for the only frame, or split after each end of image."""
    parts = list(_fragments(buffer, first, end))
    if frames == 1:
        return parts
    if len(parts) == frames:
        return parts[index : index + 1]
    number, frame = 0, []
    for begin, stop in parts:
        frame.append((begin, stop))
        if _END_OF_IMAGE in buffer[max(begin, stop - 10) : stop]:
            if number == index:
                return frame
            number, frame = number + 1, []
    raise Unreadable("truncated", f"the pixel data holds fewer than the {frames} frames it claims")
