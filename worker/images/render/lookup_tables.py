"""Lookup tables out of a header: modality, VOI and palette (PS3.3 C.11.1.1, C.11.2.1.1, C.7.6.3.1.5 and C.7.9).

Read here and not by pydicom, which takes the sign of a first value from the VR alone, indexes in the type of the
entries, swaps bytes by halves and expands segments without an end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from db.errors import Reason
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.images.decode.header import Header

_MOST_BITS = 16
_DISCRETE, _LINEAR, _INDIRECT = 0, 1, 2
#: Segments an indirect segment may repeat, all in all; each of the rest makes at least one entry.
_MOST_SEGMENTS = 1 << 17


@dataclass(frozen=True, slots=True)
class Table:
    """Entries of *bits* bits for the input values *first* and up."""

    first: int
    bits: int
    entries: npt.NDArray[np.int64]

    def of(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The entry of each value; values before the first or after the last have the first or the last."""
        places = np.clip(values.astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return self.entries[places]


def table_in(header: Header, descriptor: str, data: str, *, signed: bool, segmented: str = "") -> Table:
    """The table those elements make; *signed* says whether its first input value may be negative.

    Raises Unreadable where the elements are absent, too short, or make no sense.
    """
    order = "<" if header.encoding.little_endian else ">"
    described = np.frombuffer(header.blob(descriptor)[:6], f"{order}u2")
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
    # A depth that the entries themselves contradict is wrong.
    return Table(first, max(bits if bits <= _MOST_BITS else 1, int(kept.max()).bit_length(), 1), kept)


def _entries(header: Header, data: str, order: str, count: int) -> npt.NDArray[Any]:
    """Words, or bytes where there are too few bytes for words."""
    blob = header.blob(data)
    words = np.frombuffer(blob[: len(blob) // 2 * 2], f"{order}u2")
    if len(words) >= count:
        return words
    return _as_bytes(blob, order) if header.vr(data) != b"OB" else np.frombuffer(blob, np.uint8)


def _as_bytes(blob: bytes, order: str) -> npt.NDArray[Any]:
    """Bytes that were written two to a word, the first in its lower half (PS3.5 8.1)."""
    even = np.frombuffer(blob + b"\0" * (len(blob) % 2), f"{order}u2")
    return even.astype("<u2").view(np.uint8)


def _expanded(header: Header, segmented: str, order: str, bits: int, most: int) -> list[int]:
    """A segmented table as its entries, of which there may be no more than *most* (PS3.3 C.7.9.2)."""
    blob = header.blob(segmented)
    wide = bits > 8  # noqa: PLR2004 - bits of a byte
    source = np.frombuffer(blob[: len(blob) // 2 * 2], f"{order}u2") if wide else _as_bytes(blob, order)
    codes: list[int] = source.tolist()
    entries: list[int] = []
    seen = 0

    def expand(at: int, segments: int, *, nested: bool) -> None:
        nonlocal seen
        # What follows the last whole segment is padding.
        while segments and at + 2 < len(codes):
            segments, seen = segments - 1, seen + 1
            kind, length = codes[at], codes[at + 1]
            if len(entries) + length > most or seen > _MOST_SEGMENTS:
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
    """Where the segments an indirect one repeats begin; it says so in bytes, least significant part first."""
    size, parts = (16, codes[at : at + 2]) if wide else (8, codes[at : at + 4])
    offset = sum(part << size * place for place, part in enumerate(parts))
    return offset // 2 if wide else offset
