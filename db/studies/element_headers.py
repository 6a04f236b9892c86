"""Headers of elements that violate the encoding rules: equipment sends VRs such as `--`, blanks or zeros (PS3.5 7.1.2).

Shared, because listener and worker must find the same elements in an object. In Explicit VR, an element has one of
three layouts:

    short      tag, VR, length in 16 bits
    long       tag, VR, two reserved bytes, length in 32 bits
    implicit   tag, length in 32 bits

With a VR that is not known, the layout is the one after whose value another element begins. Each header costs a
constant number of steps, and no byte beyond the buffer is read.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import mmap

    Buffer = mmap.mmap | bytes | memoryview

UNDEFINED = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_DELIMITATION, SEQUENCE_DELIMITATION = 0xFFFEE00D, 0xFFFEE0DD
DELIMITERS = frozenset((ITEM_DELIMITATION, SEQUENCE_DELIMITATION))
#: VRs with a 16-bit length, and those with two reserved bytes and a 32-bit length (PS3.5 tables 7.1-1 and 7.1-2).
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_VRS = SHORT_VRS | LONG_VRS
#: VRs that writers use for an unknown one.
_NO_VRS = frozenset((b"--", b"??", b"  ", b"\0\0"))
MAX_SHORT_LENGTH = 0xFFFF
#: Bytes of the shortest element.
_MIN_ELEMENT = 8
_PIXEL_DATA = (0x7FE0, 0x0010)
#: Bytes of a value beyond which the next element is not waited for: a stream would have to be kept for it.
MAX_LOOKAHEAD_BYTES = 1024

_TAG = {True: struct.Struct("<HH").unpack_from, False: struct.Struct(">HH").unpack_from}
_SHORT = {True: struct.Struct("<H").unpack_from, False: struct.Struct(">H").unpack_from}
_LONG = {True: struct.Struct("<L").unpack_from, False: struct.Struct(">L").unpack_from}


class Layout(NamedTuple):
    """Start and length of a value; whether its header is an implicit one."""

    start: int
    length: int
    implicit: bool = False


class Undecided(Exception):
    """Raised when the buffer ends before the layout of a header is known."""


def is_long(vr: bytes, reserved: int, length: int) -> bool:
    """Return whether a header with *length* after its reserved bytes has the long layout; if not, `layout_of` decides.

    Some writers give UN a short length. If it is 0, a header begins where the long length should be, and its tag makes
    a length above 65535: the element number of a tag is 0 only in group lengths.
    """
    return vr in LONG_VRS and not reserved and (vr != b"UN" or length <= MAX_SHORT_LENGTH)


def layout_of(buffer: Buffer, position: int, *, little_endian: bool, end: int | None) -> Layout | None:
    """Return the layout of the header at *position* in Explicit VR; None if no element follows in any layout.

    The value of the result extends beyond *end* if it does so in every layout: the data set is truncated.

    *end* is that of the data set or item; None in a stream, where values longer than MAX_LOOKAHEAD_BYTES are not
    checked. Raises Undecided if *buffer* ends before that is known.
    """
    if position + 12 > len(buffer) and (end is None or end > len(buffer)):
        raise Undecided
    if bytes(buffer[position : position + 8]) == bytes(8):  # padding
        return Layout(position + 8, 0)
    following = _Following(buffer, position, little_endian=little_endian, end=end)
    vr = bytes(buffer[position + 4 : position + 6])
    possible, layouts = None, _layouts(buffer, position, little_endian=little_endian)
    for layout in layouts:
        follows = following.begins_after(layout)
        if follows:
            return layout
        if follows is None:
            if end is not None or layout.length <= MAX_LOOKAHEAD_BYTES:
                raise Undecided
            # Two printable characters are a VR; as part of an implicit length, they need the element behind it.
            possible = possible or (None if layout.implicit and vr.isascii() and vr.decode().isprintable() else layout)
    # A VR of the standard, or one newer than this list, is accepted even if tags do not ascend.
    regular = vr.isalpha() and vr.isupper()
    if regular or (end is not None and all(layout.start + layout.length > end for layout in layouts)):
        return possible or layouts[0]
    return possible


def begins_explicit(buffer: Buffer, position: int, *, little_endian: bool, end: int | None) -> bool:
    """Return whether the data set at *position* has explicit VRs: the bytes decide, senders confuse transfer syntaxes.

    Raises Undecided as `layout_of` does.
    """
    if position + 8 > len(buffer):
        if end is None:
            raise Undecided
        return False
    vr = bytes(buffer[position + 4 : position + 6])
    if vr.isalpha() and vr.isupper():
        return True
    short = Layout(position + 8, _SHORT[little_endian](buffer, position + 6)[0])
    after = short.start + short.length
    if after + 8 <= len(buffer):
        following = _Following(buffer, position, little_endian=little_endian, end=end)
        return bytes(buffer[after + 4 : after + 6]) in _VRS and following.ascends(after)
    if end is None and short.length <= MAX_LOOKAHEAD_BYTES:
        raise Undecided
    return False


def _layouts(buffer: Buffer, position: int, *, little_endian: bool) -> list[Layout]:
    """Return the possible layouts of a header, the likeliest first."""
    vr = bytes(buffer[position + 4 : position + 6])
    (reserved,) = _SHORT[little_endian](buffer, position + 6)
    short = Layout(position + 8, reserved)
    # A header of 8 bytes can be the last of its buffer.
    missing = position + 12 > len(buffer)
    long = short if missing else Layout(position + 12, _LONG[little_endian](buffer, position + 8)[0])
    if not reserved and _TAG[little_endian](buffer, position) == _PIXEL_DATA:
        return [long, short]
    if vr.upper() in SHORT_VRS or (reserved and vr.isalpha()):
        return [short, long]
    if vr.isalpha():  # a VR newer than this list has the long layout
        return [long, short]
    implicit = Layout(position + 8, _LONG[little_endian](buffer, position + 4)[0], implicit=True)
    if reserved:
        return [short, implicit]
    # Lengths are even.
    return [short, long, implicit] if vr in _NO_VRS or implicit.length % 2 else [short, implicit, long]


class _Following:
    """Test whether an element begins after the value of the header at *position*."""

    def __init__(self, buffer: Buffer, position: int, *, little_endian: bool, end: int | None) -> None:
        self._buffer, self._little_endian, self._end = buffer, little_endian, end
        self._tag, self._vr = _TAG[little_endian](buffer, position), bytes(buffer[position + 4 : position + 6])

    def begins_after(self, layout: Layout) -> bool | None:
        """Return whether an element, or the end, follows; None if that lies beyond the buffer."""
        if layout.length == UNDEFINED:
            return self._encloses(layout.start)
        after = layout.start + layout.length
        if self._end is not None and (after > self._end or self._is_end(after)):
            return after <= self._end
        return self._begins_at(after, implicit=layout.implicit)

    def ascends(self, position: int) -> bool:
        """Return whether the tag at *position* is greater than that before; element 0 is a group length."""
        group, element = _TAG[self._little_endian](self._buffer, position)
        return (group, element) > self._tag and (element > 0 or self._buffer[position + 4 : position + 6] == b"UL")

    def _is_end(self, after: int) -> bool:
        # Fewer zeros than make an element are padding; Pixel Data need no element behind them.
        if self._end is None or self._tag == _PIXEL_DATA:
            return self._end is not None
        return self._end - after < _MIN_ELEMENT and not bytes(self._buffer[after : self._end]).strip(b"\0")

    def _encloses(self, start: int) -> bool | None:
        """Return whether an item or the end of a sequence is at *start*."""
        if start + 8 > len(self._buffer):
            return None if self._end is None or self._end > len(self._buffer) else False
        group, element = _TAG[self._little_endian](self._buffer, start)
        return (group << 16 | element) in {ITEM, SEQUENCE_DELIMITATION}

    def _begins_at(self, position: int, *, implicit: bool) -> bool | None:
        if position + 8 > len(self._buffer):
            return None if self._end is None or self._end > len(self._buffer) else False
        group, element = _TAG[self._little_endian](self._buffer, position)
        if group << 16 | element in DELIMITERS:
            return True
        vr = bytes(self._buffer[position + 4 : position + 6])
        # Writers without the VR of an element lack those of its neighbours, too.
        same = group == self._tag[0] and (vr == self._vr or vr in _NO_VRS)
        known = same or vr.upper() in _VRS or (implicit and self._fits(position))
        return known and self.ascends(position)

    def _fits(self, position: int) -> bool:
        """Return whether an implicit header at *position* has a length that its data set can hold."""
        (length,) = _LONG[self._little_endian](self._buffer, position + 4)
        return bool(length <= (MAX_LOOKAHEAD_BYTES if self._end is None else self._end - position - 8))
