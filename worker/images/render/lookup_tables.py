"""Read lookup tables from a header: modality, VOI and palette (PS3.3 C.11.1.1, C.11.2.1.1, C.7.6.3.1.5 and C.7.9).

pydicom is not used: it takes the sign of the first value from the VR alone, indexes with the type of the entries, swaps
the bytes of halves and expands segments without a limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from db.errors import Reason
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.images.decode.header import Header, Keyword

_MAX_BITS = 16
_DISCRETE, _LINEAR, _INDIRECT = 0, 1, 2
#: Segments of one table, repeated ones included. An entry needs a segment at most, and a table has 65 536 entries.
_MAX_SEGMENTS = 1 << 17


@dataclass(frozen=True, slots=True)
class Table:
    """Entries of *bits* bits for the input values *first* and up; *held* bits are used, *bits* as declared or more."""

    first: int
    bits: int
    entries: npt.NDArray[np.int64]
    held: int

    def look_up(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return the entry of each value; values beyond the ends have the first or the last entry."""
        index = np.clip(values.astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return self.entries[index]


def table_in(
    header: Header, descriptor: Keyword, data: Keyword, *, signed: bool, segmented: Keyword | None = None
) -> Table:
    """Return the lookup table of the named elements; if *signed*, its first input value may be negative.

    Raises Unreadable if the elements are absent, too short or invalid.
    """
    order = "<" if header.encoding.little_endian else ">"
    described = np.frombuffer(header.raw(descriptor)[:6], f"{order}u2")
    if len(described) != 3:  # noqa: PLR2004 - number of entries, first value, bits
        raise Unreadable(Reason.MALFORMED, "the descriptor of a lookup table is missing")
    count, first, bits = (int(part) for part in described)
    count = count or 1 << 16
    if first >= 1 << 15 and (signed or header.vr(descriptor) == b"SS"):
        first -= 1 << 16
    if data in header:
        entries = _entries(header, data, order, count)
    elif segmented and segmented in header:
        entries = np.array(_expanded(header, segmented, order, bits, count))
    else:
        raise Unreadable(Reason.MALFORMED, "a lookup table is empty")
    if len(entries) < count:
        raise Unreadable(Reason.MALFORMED, "a lookup table is shorter than declared")
    kept = entries[:count].astype(np.int64)
    # Entries that need more bits than declared are right, the declaration is not.
    held = max(1, int(kept.max()).bit_length())
    return Table(first, max(bits if bits <= _MAX_BITS else 1, held), kept, held)


def _entries(header: Header, data: Keyword, order: str, count: int) -> npt.NDArray[Any]:
    """Return words, or bytes if there are too few bytes for words."""
    blob = header.raw(data)
    words = np.frombuffer(blob[: len(blob) // 2 * 2], f"{order}u2")
    if len(words) >= count:
        return words
    return _as_bytes(blob, order) if header.vr(data) != b"OB" else np.frombuffer(blob, np.uint8)


def _as_bytes(blob: bytes, order: str) -> npt.NDArray[Any]:
    """Return bytes that are packed two to a word, the first in the lower half (PS3.5 8.1)."""
    even = np.frombuffer(blob + b"\0" * (len(blob) % 2), f"{order}u2")
    return even.astype("<u2").view(np.uint8)


def _expanded(header: Header, segmented: Keyword, order: str, bits: int, limit: int) -> list[int]:
    """Expand a segmented table to its entries, at most *limit* (PS3.3 C.7.9.2). Raises Unreadable."""
    blob = header.raw(segmented)
    wide = bits > 8  # noqa: PLR2004 - bits of a byte
    source = np.frombuffer(blob[: len(blob) // 2 * 2], f"{order}u2") if wide else _as_bytes(blob, order)
    codes: list[int] = source.tolist()
    entries: list[int] = []
    count = 0

    def expand(at: int, segments: int, *, nested: bool) -> None:
        nonlocal count
        # Anything after the last complete segment is padding.
        while segments and at + 2 < len(codes):
            segments, count = segments - 1, count + 1
            kind, length = codes[at], codes[at + 1]
            if len(entries) + length > limit or count > _MAX_SEGMENTS:
                raise Unreadable(Reason.MALFORMED, "a segmented palette has more entries than declared")
            if kind == _DISCRETE:
                entries.extend(codes[at + 2 : at + 2 + length])
                at += 2 + length
            elif kind == _LINEAR and entries:
                steps = np.linspace(entries[-1], codes[at + 2], length + 1)[1:]
                entries.extend(np.rint(steps).astype(int).tolist())
                at += 3
            elif kind == _INDIRECT and entries and not nested:
                expand(_target(codes, at + 2, wide=wide), length, nested=True)
                at += 4 if wide else 6
            else:
                raise Unreadable(Reason.MALFORMED, "the segments of a palette are invalid")

    expand(0, -1, nested=False)
    return entries


def _target(codes: list[int], at: int, *, wide: bool) -> int:
    """Return the index of the segments that an indirect segment repeats; its bytes are in little-endian order."""
    size, parts = (16, codes[at : at + 2]) if wide else (8, codes[at : at + 4])
    offset = sum(part << size * place for place, part in enumerate(parts))
    return offset // 2 if wide else offset
