"""Read compressed frames from encapsulated Pixel Data (PS3.5 A.4).

pydicom's get_frame returns the rest of a truncated fragment and accepts any number of fragments; here a fragment that
extends beyond the end is an error, and so are more fragments than any image needs.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from db.errors import Reason
from db.limits import MAX_ELEMENTS
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from worker.images.decode.elements import Buffer
    from worker.images.decode.header import Header

    #: Start and end of the bytes of one fragment.
    Fragment = tuple[int, int]

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_END_OF_IMAGE = b"\xff\xd9"


class Codestreams:
    """Compressed frames of one open object; their positions are determined once."""

    def __init__(self, header: Header, buffer: Buffer) -> None:
        pixels = header.pixel_data()
        self._header, self._buffer = header, buffer
        self._end = min(pixels.end, len(buffer))
        self._table = next(self._fragments(pixels.start), (pixels.start, pixels.start))

    def read(self, index: int, limit: int) -> bytes:
        """Return the codestream of frame *index*, counted from 0, of at most *limit* bytes.

        Raises Unreadable: truncated, frame absent, or larger than an image of its size can be.
        """
        parts = self._by_extended_table(index) or self._by_basic_table(index) or self._without_table[index]
        if sum(stop - begin for begin, stop in parts) > limit:
            raise Unreadable(Reason.TOO_LARGE, "the compressed image is larger than the uncompressed image")
        return b"".join(self._buffer[begin:stop] for begin, stop in parts)

    def _fragments(self, position: int) -> Iterator[Fragment]:
        """Yield the fragments from *position*; the first item of all is the Basic Offset Table."""
        for _ in range(MAX_ELEMENTS):
            tag = self._buffer[position : position + 4]
            if tag == _END:
                return
            if len(tag) < len(_ITEM) or position >= self._end:
                raise Unreadable(Reason.TRUNCATED, "the compressed pixel data is truncated")
            if tag != _ITEM:
                raise Unreadable(Reason.MALFORMED, "the compressed pixel data does not consist of fragments")
            start = position + 8
            position = start + int.from_bytes(self._buffer[position + 4 : start], "little")
            if position > self._end:
                raise Unreadable(Reason.TRUNCATED, "the compressed pixel data is truncated")
            yield start, position
        raise Unreadable(Reason.TOO_LARGE, f"the pixel data has more than {MAX_ELEMENTS} fragments")

    def _by_extended_table(self, index: int) -> list[Fragment]:
        """Return the one fragment that the Extended Offset Table gives for a frame; [] without a table."""
        if self._offsets_extended is None:
            return []
        begin = self._table[1] + 8 + int(self._offsets_extended[index])
        stop = begin + int(self._lengths_extended[index])
        if stop > self._end:
            raise Unreadable(Reason.TRUNCATED, "the compressed pixel data is truncated")
        return [(begin, stop)]

    def _by_basic_table(self, index: int) -> list[Fragment]:
        """Return the fragments that the Basic Offset Table gives for a frame; [] without a table."""
        if self._offsets is None:
            return []
        first, found = self._table[1], []
        last = index + 1 == len(self._offsets)
        after = self._end if last else first + int(self._offsets[index + 1])
        for part in self._fragments(first + int(self._offsets[index])):
            found.append(part)
            if part[1] >= after:
                break
        return found

    @cached_property
    def _offsets(self) -> npt.NDArray[np.uint32] | None:
        begin, stop = self._table
        if stop - begin != 4 * self._header.frames:
            return None
        return _if_ascending(np.frombuffer(self._buffer[begin:stop], "<u4"))

    @cached_property
    def _offsets_extended(self) -> npt.NDArray[np.uint64] | None:
        offsets = self._header.raw("ExtendedOffsetTable")
        if len(offsets) != 8 * self._header.frames or len(self._lengths_extended) != self._header.frames:
            return None
        return _if_ascending(np.frombuffer(offsets, "<u8"))

    @cached_property
    def _lengths_extended(self) -> npt.NDArray[np.uint64]:
        lengths = self._header.raw("ExtendedOffsetTableLengths")
        return np.frombuffer(lengths[: len(lengths) // 8 * 8], "<u8")

    @cached_property
    def _without_table(self) -> list[list[Fragment]]:
        """Return the fragments of each frame: all for a single frame, one each, or split after each end of image."""
        parts, frames = list(self._fragments(self._table[1])), self._header.frames
        if frames == 1:
            return [parts]
        if len(parts) == frames:
            return [[part] for part in parts]
        found: list[list[Fragment]] = [[]]
        for begin, stop in parts:
            found[-1].append((begin, stop))
            if _END_OF_IMAGE in self._buffer[max(begin, stop - 10) : stop]:
                found.append([])
        if len(found) <= frames:
            raise Unreadable(Reason.TRUNCATED, "the pixel data contains fewer frames than declared")
        return found


def _if_ascending(offsets: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Return *offsets* if they are plausible, else None: some encoders write zeros for every frame."""
    return offsets if (offsets[1:] > offsets[:-1]).all() else None
