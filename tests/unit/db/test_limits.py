"""An object at a limit is accepted by the listener and read by the worker; one beyond it is refused by both."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import pytest

from db.limits import MAX_ELEMENTS, MAX_INFLATED_BYTES, MAX_NESTING
from dicom_listener.dicom import data_sets
from dicom_listener.dicom.statuses import ExpandsTooFar, Refusal, TooComplex
from worker.images.decode.files import read
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
UNDEFINED = 0xFFFFFFFF
SEQUENCE = struct.pack("<HH2sHI", 0x0009, 0x1001, b"SQ", 0, UNDEFINED)
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
PIXELS = struct.pack("<HH2sHI2s", 0x7FE0, 0x0010, b"OW", 0, 2, b"\1\2")


def received(data_set: bytes, syntax: str = EXPLICIT) -> None:
    """Feed the listener's reader as C-STORE does; raises Refusal."""
    reader = data_sets.reader(syntax, frozenset())
    for start in range(0, len(data_set), 1 << 20):
        reader.feed(data_set[start : start + (1 << 20)])
    reader.finish()


def stored(folder: Path, data_set: bytes, syntax: str = EXPLICIT) -> Path:
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    path = folder / "object.dcm"
    path.write_bytes(bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid + data_set)
    return path


def nested(levels: int) -> bytes:
    """A data set in which *levels* sequences and items are open at once."""
    pairs = levels // 2
    return (SEQUENCE + ITEM) * pairs + (ITEM_END + SEQUENCE_END) * pairs + PIXELS


def items(count: int) -> bytes:
    """A data set of *count* elements and items, Pixel Data and a sequence included."""
    return SEQUENCE + (ITEM + ITEM_END) * (count - 2) + SEQUENCE_END + PIXELS


def deflated(size: int) -> bytes:
    """A data set that inflates to *size* bytes."""
    filler = size - len(PIXELS) - 12
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    pieces: Iterable[bytes] = (bytes(min(1 << 20, filler - at)) for at in range(0, filler, 1 << 20))
    head = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, filler)
    packed = [packer.compress(part) for part in (head, *pieces, PIXELS)]
    return b"".join(packed) + packer.flush()


@pytest.mark.parametrize(
    ("make", "limit", "syntax"),
    [
        (nested, MAX_NESTING, EXPLICIT),
        (items, MAX_ELEMENTS, EXPLICIT),
        (deflated, MAX_INFLATED_BYTES, DEFLATED),
    ],
)
def test_an_object_at_a_limit_is_accepted_and_read(
    tmp_path: Path, make: Callable[[int], bytes], limit: int, syntax: str
) -> None:
    data_set = make(limit)
    received(data_set, syntax)

    assert read(stored(tmp_path, data_set, syntax)).pixels


@pytest.mark.parametrize(
    ("make", "limit", "syntax", "refusal"),
    [
        (nested, MAX_NESTING, EXPLICIT, TooComplex),
        (items, MAX_ELEMENTS, EXPLICIT, TooComplex),
        (deflated, MAX_INFLATED_BYTES, DEFLATED, ExpandsTooFar),
    ],
)
def test_both_refuse_an_object_beyond_a_limit(
    tmp_path: Path, make: Callable[[int], bytes], limit: int, syntax: str, refusal: type[Refusal]
) -> None:
    data_set = make(limit + 2)
    with pytest.raises(refusal):
        received(data_set, syntax)
    with pytest.raises(Unreadable):
        read(stored(tmp_path, data_set, syntax))
