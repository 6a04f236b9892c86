"""Walk the elements of an encoded data set as it arrives: in constant memory, without decoding a value (PS3.5 7).

The reader returns the raw values of a few wanted elements and detects a truncated data set. pydicom is not suited to
hostile input: it reads a truncated data set without an error, overflows the stack on deep nesting, and needs the
complete object in memory.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from db.limits import MAX_ELEMENTS, MAX_NESTING
from dicom_listener.dicom.statuses import TooComplex, Truncated

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM = 0xFFFEE000
#: Item Delimitation and Sequence Delimitation.
DELIMITERS = frozenset((0xFFFEE00D, 0xFFFEE0DD))
#: VRs with a 16-bit length; every other, known today or not, has 32 bits (PS3.5 7.1.2).
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
#: Bytes of a wanted value; a longer one is not returned. The longest in use are names: 3 x 64 characters of 4 bytes.
MAX_VALUE_BYTES = 1024


class ElementReader:
    """Reads the elements of one data set, fed in fragments of any size.

    *values* holds the top-level elements among *wanted* as raw bytes; *present* also has those longer than
    MAX_VALUE_BYTES. Real objects violate the encoding rules in many ways: after an element that cannot be parsed,
    *understood* is False, the values found so far stay, and `finish` no longer checks the rest.
    """

    def __init__(self, wanted: AbstractSet[int], *, big_endian: bool = False) -> None:
        self.values: dict[int, bytes] = {}
        #: The wanted elements with a value of any length.
        self.present: set[int] = set()
        self.understood = True
        self._wanted = wanted
        order = ">" if big_endian else "<"
        self._tag = struct.Struct(f"{order}HH").unpack_from
        self._short = struct.Struct(f"{order}H").unpack_from
        self._long = struct.Struct(f"{order}I").unpack_from
        #: Per open level, True if elements have no VR, as inside UN of undefined length (PS3.5 6.2.2).
        self._implicit: list[bool] = []
        self._elements = 0
        self._skip = 0
        self._pending = b""

    def feed(self, fragment: bytes | memoryview) -> None:
        """Read the next bytes; raises TooComplex if a limit is exceeded."""
        if self._skip >= len(fragment) or not self.understood:
            self._skip -= min(self._skip, len(fragment))
            return
        data = memoryview(fragment)[self._skip :]
        if self._pending:
            data = memoryview(self._pending + bytes(data))
        self._skip = 0
        self._pending = bytes(data[self._walk(data) :])

    def finish(self) -> None:
        """End the data set; raises Truncated if an element is not complete."""
        if not self.understood:
            return
        # Fewer zeros than make an element are padding, not the start of one.
        if self._skip or len(self._implicit) > 1 or self._pending.strip(b"\0"):
            raise Truncated("the data set is shorter than its element lengths")

    def _walk(self, data: memoryview) -> int:
        """Read the elements that begin in *data*; returns the offset after the last complete one."""
        if not self._implicit:
            if len(data) < 8:  # noqa: PLR2004 - tag, VR and length
                return 0
            # The bytes decide, not the negotiated transfer syntax: real senders confuse the two.
            self._implicit.append(not _is_vr(bytes(data[4:6])))
        offset = 0
        while offset + 8 <= len(data) and self.understood:
            following = self._element(data, offset)
            if following is None:
                break
            offset = following
        if offset > len(data):
            self._skip, offset = offset - len(data), len(data)
        return offset

    def _element(self, data: memoryview, offset: int) -> int | None:
        """Read one element; returns the offset of the next, None if *data* ends before that is known."""
        group, number = self._tag(data, offset)
        tag = group << 16 | number
        if tag in DELIMITERS:
            return self._leave(offset + 8)
        start, length, implicit_inside = self._header(data, offset, tag)
        if start > len(data):
            return None
        wanted = tag in self._wanted and len(self._implicit) == 1
        if wanted and length:
            self.present.add(tag)
        if length == UNDEFINED_LENGTH:
            self._enter(implicit=implicit_inside)
            return start
        end = start + length
        if wanted and length <= MAX_VALUE_BYTES:
            if end > len(data):
                return None
            self.values.setdefault(tag, bytes(data[start:end]))
        self._count()
        return end

    def _header(self, data: memoryview, offset: int, tag: int) -> tuple[int, int, bool]:
        """Return start and length of the value, and whether elements inside it have no VR."""
        implicit = self._implicit[-1]
        if implicit or tag == ITEM:
            return offset + 8, self._long(data, offset + 4)[0], implicit
        vr = bytes(data[offset + 4 : offset + 6])
        if vr in SHORT_VRS:
            return offset + 8, self._short(data, offset + 6)[0], implicit
        if not _is_vr(vr):
            return self._header_without_vr(data, offset, implicit=implicit)
        if offset + 12 > len(data):
            return offset + 12, 0, implicit
        return offset + 12, self._long(data, offset + 8)[0], vr == b"UN"

    def _header_without_vr(self, data: memoryview, offset: int, *, implicit: bool) -> tuple[int, int, bool]:
        """Read a header with the VR `??` of some writers, as `_header`: 16-bit length, or zeros and a 32-bit one."""
        self.understood = bytes(data[offset + 4 : offset + 6]).decode("latin-1").isprintable()
        length = self._short(data, offset + 6)[0]
        if length:
            return offset + 8, length, implicit
        if offset + 16 > len(data):
            return offset + 16, 0, implicit
        # Either an empty value, followed by the next element, or a value with a 32-bit length.
        if self._begins_after(data, offset + 8, self._tag(data, offset)):
            return offset + 8, 0, implicit
        return offset + 12, self._long(data, offset + 8)[0], implicit

    def _begins_after(self, data: memoryview, offset: int, previous: tuple[int, int]) -> bool:
        """Return whether a delimiter or an element with a tag above *previous* begins at *offset*."""
        group, number = self._tag(data, offset)
        delimits = (group << 16 | number) in DELIMITERS
        return delimits or ((group, number) > previous and _is_vr(bytes(data[offset + 4 : offset + 6])))

    def _enter(self, *, implicit: bool) -> None:
        self._implicit.append(implicit)
        self._count()
        if len(self._implicit) - 1 > MAX_NESTING:
            raise TooComplex(f"more than {MAX_NESTING} nested sequences and items")

    def _leave(self, following: int) -> int:
        # A delimiter without an open level is a known fault of senders; reading can continue after it.
        if len(self._implicit) > 1:
            self._implicit.pop()
        else:
            self._count()
        return following

    def _count(self) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise TooComplex(f"more than {MAX_ELEMENTS} elements")


def _is_vr(two: bytes) -> bool:
    return two.isalpha() and two.isupper()
