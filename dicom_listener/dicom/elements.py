"""Walk the elements of an encoded data set as it arrives: in constant memory, without decoding a value (PS3.5 7).

The reader returns the raw values of a few wanted elements and detects a truncated data set. pydicom is not suited to
hostile input: it reads a truncated data set without an error, overflows the stack on deep nesting, and needs the
complete object in memory.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from db.limits import MAX_ELEMENTS, MAX_NESTING
from db.studies.element_headers import (
    DELIMITERS,
    ITEM,
    LONG_VRS,
    SHORT_VRS,
    UNDEFINED,
    Undecided,
    begins_explicit,
    is_long,
    layout_of,
)
from dicom_listener.dicom.statuses import TooComplex, Truncated

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    #: Tags of an element and of the sequences that hold it, the outermost first.
    Path = tuple[int, ...]

#: Bytes of a wanted value; a longer one is not returned. The longest in use are names: 3 x 64 characters of 4 bytes.
MAX_VALUE_BYTES = 1024
#: Bytes of a sequence or item of known length that is read inside: a request has some hundred.
MAX_SEQUENCE_BYTES = 16_384
#: Of a data set or of an item, and then of all that is in it (PS3.5 6.1.2.3).
SPECIFIC_CHARACTER_SET = 0x00080005
#: Distinct values kept of one element inside of sequences, and what stands for further ones.
MAX_INNER_VALUES, FURTHER = 16, b"..."
#: Decoders of a header with a short length, and of its parts: tag, VR with a short length, long length.
CODES = "HH2sH", "HH", "2sH", "I"
BIG_ENDIAN, LITTLE_ENDIAN = ([struct.Struct(order + code).unpack_from for code in CODES] for order in "><")


class InnerValue(NamedTuple):
    """Value of an element in an item, and the nearest item's character set; None: that of the data set."""

    value: bytes
    character_set: bytes | None = None


class ElementReader:
    """Reads the elements of one data set, fed in fragments of any size.

    *values* holds the top-level elements among *wanted* as raw bytes; *present* also has those longer than
    MAX_VALUE_BYTES. *inner_values* holds the distinct values of the elements *inner*, which are in items of sequences,
    except for character sets, which stand beside the values; an empty list for an element or sequence that is too
    long. Damage inside of a sequence of known length loses its values only. Real objects violate the encoding rules in
    many ways: after an element that cannot be parsed, *understood* is False, the values found so far stay, and `finish`
    no longer checks the rest.
    """

    def __init__(
        self, wanted: AbstractSet[int], *, inner: AbstractSet[Path] = frozenset(), big_endian: bool = False
    ) -> None:
        self.values: dict[int, bytes] = {}
        self.inner_values: dict[Path, list[InnerValue]] = {}
        #: The wanted elements with a value of any length.
        self.present: set[int] = set()
        self.understood = True
        self._top, self._inner = wanted, inner
        #: Every element that is not skipped at once, on any level.
        self._wanted = {*wanted, *(tag for path in inner for tag in path)} if inner else wanted
        self._sequences = {path[:length] for path in inner for length in range(1, len(path))}
        self._little_endian = not big_endian
        self._plain, self._tag, self._vr_and_length, self._long = BIG_ENDIAN if big_endian else LITTLE_ENDIAN
        #: Per open level, True if elements have no VR, as inside UN of undefined length (PS3.5 6.2.2).
        self._implicit: list[bool] = []
        #: Per open level, the path to it; None if no element below it is wanted.
        self._paths: list[Path | None] = [()]
        #: Per open level, the nearest item's character set.
        self._character_sets: list[bytes | None] = [None]
        self._elements = 0
        self._skip = 0
        self._pending = b""
        self._ended = False

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
        self._ended = True
        self._pending = self._pending[self._walk(memoryview(self._pending)) :]
        if not self.understood:
            return
        # Fewer zeros than make an element are padding, not the start of one.
        if self._skip or len(self._implicit) > 1 or self._pending.strip(b"\0"):
            raise Truncated("the data set is shorter than its element lengths")

    def _walk(self, data: memoryview) -> int:
        """Read the elements that begin in *data*; returns the offset after the last complete one."""
        offset, size = 0, len(data)
        with suppress(Undecided):
            if not self._implicit:
                end = size if self._ended else None
                self._implicit.append(not begins_explicit(data, 0, little_endian=self._little_endian, end=end))
            while offset + 8 <= size and self.understood:
                group, number, vr, length = self._plain(data, offset)
                # Most elements end here: a call for each costs a tenth of an object's time in Python.
                is_plain = vr in SHORT_VRS and group != ITEM >> 16 and not self._implicit[-1]
                if is_plain and group << 16 | number not in self._wanted:
                    offset += 8 + length
                    self._count()
                    continue
                following = self._element(data, offset)
                if following is None:
                    break
                offset = following
        if offset > size:
            self._skip, offset = offset - size, size
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
        top = len(self._implicit) == 1
        wanted = top and tag in self._top
        if wanted and length:
            self.present.add(tag)
        path = self._path(tag)
        if length == UNDEFINED:
            self._enter(path, implicit=implicit_inside)
            return start
        end = start + length
        if (wanted or path in self._inner) and length <= MAX_VALUE_BYTES:
            if end > len(data):
                return None
            self._keep(tag if wanted else None, path, bytes(data[start:end]))
        elif path is not None and (path in self._inner or length > MAX_SEQUENCE_BYTES):
            self.inner_values.setdefault(path, [])
        elif path is not None and length:
            if end > len(data):
                return None
            self._look_inside(data[start:end], path, implicit=implicit_inside)
        self._count()
        return end

    def _path(self, tag: int) -> Path | None:
        """Return the path to an element of the open level; None if neither it nor an element inside is wanted."""
        level = self._paths[-1]
        if level is None or not self._inner:
            return None
        path = level if tag == ITEM else (*level, tag)
        return path if path in self._sequences or path in self._inner else None

    def _keep(self, tag: int | None, path: Path | None, value: bytes) -> None:
        if tag is not None:
            self.values.setdefault(tag, value)
        if path is None or path not in self._inner:
            return
        if path[-1] == SPECIFIC_CHARACTER_SET:
            self._character_sets[-1] = value
            return
        found, read = self.inner_values.setdefault(path, []), InnerValue(value, self._character_sets[-1])
        if read not in found and len(found) <= MAX_INNER_VALUES:
            found.append(read if len(found) < MAX_INNER_VALUES else InnerValue(FURTHER))

    def _look_inside(self, data: memoryview, path: Path, *, implicit: bool) -> None:
        """Read the elements of a sequence or item of known length; it is skipped as any other, damaged or not."""
        before = self._implicit, self._paths, self._character_sets, self._elements, self.understood
        self._implicit, self._paths = [*self._implicit, implicit], [*self._paths, path]
        self._character_sets = [*self._character_sets, self._character_sets[-1]]
        levels, offset = len(self._implicit), 0
        with suppress(Undecided, TooComplex, struct.error):
            while offset + 8 <= len(data) and self.understood and len(self._implicit) >= levels:
                following = self._element(data, offset)
                if following is None:
                    break
                offset = following
        self._implicit, self._paths, self._character_sets, self._elements, self.understood = before

    def _header(self, data: memoryview, offset: int, tag: int) -> tuple[int, int, bool]:
        """Return start and length of the value, and whether elements inside it have no VR.

        Raises Undecided if *data* ends before that is known.
        """
        implicit = self._implicit[-1]
        if implicit or tag == ITEM:
            return offset + 8, self._long(data, offset + 4)[0], implicit
        vr, length = self._vr_and_length(data, offset + 4)
        if vr in SHORT_VRS:
            return offset + 8, length, implicit
        if vr in LONG_VRS and not length and offset + 12 > len(data):
            return offset + 12, 0, implicit
        if offset + 12 <= len(data) and is_long(vr, length, long := self._long(data, offset + 8)[0]):
            return offset + 12, long, vr == b"UN"
        layout = layout_of(data, offset, little_endian=self._little_endian, end=len(data) if self._ended else None)
        self.understood = layout is not None
        return (layout.start, layout.length, vr == b"UN") if layout else (len(data), 0, implicit)

    def _enter(self, path: Path | None, *, implicit: bool) -> None:
        self._implicit.append(implicit)
        self._paths.append(path)
        self._character_sets.append(self._character_sets[-1])
        self._count()
        if len(self._implicit) - 1 > MAX_NESTING:
            raise TooComplex(f"more than {MAX_NESTING} nested sequences and items")

    def _leave(self, following: int) -> int:
        # A delimiter without an open level is a known fault of senders; reading can continue after it.
        if len(self._implicit) > 1:
            self._implicit.pop()
            self._paths.pop()
            self._character_sets.pop()
        else:
            self._count()
        return following

    def _count(self) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise TooComplex(f"more than {MAX_ELEMENTS} elements")
