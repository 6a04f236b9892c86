"""Elements with broken VRs: listener and worker skip them alike, and find the elements before and behind them."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_listener.dicom import data_sets
from dicom_listener.dicom.statuses import Refusal
from worker.images.decode.files import read
from worker.images.decode.header import WANTED
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    from pathlib import Path

UNDEFINED = 0xFFFFFFFF
STUDY, SERIES = 0x0020000D, 0x0020000E
ROWS, SERIES_NUMBER = 0x00280010, 0x00200011
BROKEN = [b"--", b"??", b"  ", b"\0\0", b"lt", b"xx", b"Lt", b"\xff\xfe", b"-L"]


def short(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def long(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    header = struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, 0, len(value) if length is None else length)
    return header + value


def implicit(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def item(content: bytes, *, undefined: bool) -> bytes:
    if not undefined:
        return struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content
    end = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
    return struct.pack("<HHL", 0xFFFE, 0xE000, UNDEFINED) + content + end


def sequence(content: bytes, *, undefined: bool) -> bytes:
    if not undefined:
        return long(0x00081140, b"SQ", content)
    return long(0x00081140, b"SQ", content, UNDEFINED) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


BEFORE = short(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.2\0") + short(0x00080060, b"CS", b"CT")
BEHIND = (
    short(STUDY, b"UI", b"1.2.3\0")
    + short(SERIES, b"UI", b"1.2.3.4\0")
    + short(SERIES_NUMBER, b"IS", b"7 ")
    + short(ROWS, b"US", b"\x40\0")
)
PIXELS = long(0x7FE00010, b"OW", bytes(64))


def received(data_set: bytes, step: int = 1 << 20) -> dict[int, bytes]:
    """The values that the listener finds; raises Refusal."""
    reader = data_sets.reader("1.2.840.10008.1.2.1", WANTED.keys() | {STUDY, SERIES})
    for start in range(0, len(data_set), step):
        reader.feed(data_set[start : start + step])
    reader.finish()
    return reader.values


def stored(folder: Path, data_set: bytes, meta: bytes = b"") -> Path:
    path = folder / "object.dcm"
    syntax = short(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0")
    path.write_bytes(bytes(128) + b"DICM" + meta + syntax + data_set)
    return path


def assert_read(folder: Path, data_set: bytes, meta: bytes = b"") -> None:
    """Both find the elements behind the odd one, and the worker the pixels."""
    header = read(stored(folder, data_set, meta))
    assert (header.integer("Rows"), header.integer("SeriesNumber"), header.code("Modality")) == (64, 7, "CT")
    assert header.pixel_data().length == 64
    for step in (1, 13, 1 << 20):
        values = received(data_set, step)
        assert (values[STUDY], values[ROWS]) == (b"1.2.3\0", b"\x40\0")
        assert {tag: header.values[tag][2] for tag in values.keys() & WANTED.keys()} == {
            tag: value for tag, value in values.items() if tag in WANTED
        }


@pytest.mark.parametrize("vr", BROKEN)
@pytest.mark.parametrize("value", [b"", b"G0000000", bytes(500), b"CT" * 20_000])
def test_element_with_a_short_length_is_skipped(tmp_path: Path, vr: bytes, value: bytes) -> None:
    assert_read(tmp_path, BEFORE + short(0x001021B0, vr, value) + BEHIND + PIXELS)


@pytest.mark.parametrize("vr", [*BROKEN, b"ZZ", b"UN", b"OB", b"UT"])
@pytest.mark.parametrize("value", [b"", b"G0000000", bytes(500), b"CT" * 40_000])
def test_element_with_a_long_length_is_skipped(tmp_path: Path, vr: bytes, value: bytes) -> None:
    assert_read(tmp_path, BEFORE + long(0x001021B0, vr, value) + BEHIND + PIXELS)


@pytest.mark.parametrize("vr", [b"UN", b"OB", b"UT", b"SQ"])
@pytest.mark.parametrize("value", [b"G0000000", b"CT" * 100])
def test_long_vr_with_a_short_length_is_skipped(tmp_path: Path, vr: bytes, value: bytes) -> None:
    assert_read(tmp_path, BEFORE + short(0x001021B0, vr, value) + BEHIND + PIXELS)


def test_empty_un_with_a_short_length_is_skipped(tmp_path: Path) -> None:
    assert_read(tmp_path, BEFORE + short(0x001021B0, b"UN", b"") + BEHIND + PIXELS)


@pytest.mark.parametrize("value", [b"", b"12345678", bytes(500)])
def test_implicit_element_in_an_explicit_data_set_is_skipped(tmp_path: Path, value: bytes) -> None:
    assert_read(tmp_path, BEFORE + implicit(0x001021B0, value) + BEHIND + PIXELS)


@pytest.mark.parametrize("vr", BROKEN)
def test_neighbours_without_a_vr_are_skipped(tmp_path: Path, vr: bytes) -> None:
    odd = b"".join(short(0x00091000 + number, vr, b"x" * (2 * number)) for number in range(1, 6))
    assert_read(tmp_path, BEFORE + odd + BEHIND + PIXELS)


@pytest.mark.parametrize("vr", BROKEN)
@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_element_in_an_item_is_skipped(tmp_path: Path, vr: bytes, undefined: bool, last: bool) -> None:
    content = short(0x00080008, b"CS", b"IN") + short(0x00080050, vr, b"value ")
    content += b"" if last else short(0x00100010, b"PN", b"In^N")
    odd = sequence(item(content, undefined=undefined) * 2, undefined=undefined)
    assert_read(tmp_path, BEFORE + odd + BEHIND + PIXELS)


def test_implicit_items_in_an_explicit_data_set_are_skipped(tmp_path: Path) -> None:
    content = implicit(0x00080050, b"A1") + implicit(0x00100010, b"In^N") + implicit(0x00100020, b"")
    for undefined in (False, True):
        odd = sequence(item(content, undefined=undefined), undefined=undefined)
        assert_read(tmp_path, BEFORE + odd + BEHIND + PIXELS)


@pytest.mark.parametrize("vr", [*BROKEN, b"us", b"un"])
def test_value_of_an_element_with_a_broken_vr_is_used(tmp_path: Path, vr: bytes) -> None:
    rows = short(ROWS, b"US", b"\x40\0")
    assert_read(tmp_path, BEFORE + BEHIND.replace(rows, short(ROWS, vr, b"\x40\0")) + PIXELS)


@pytest.mark.parametrize("vr", [*BROKEN, b"UN"])
def test_element_behind_the_pixels_is_skipped(tmp_path: Path, vr: bytes) -> None:
    assert_read(tmp_path, BEFORE + BEHIND + PIXELS + short(0xFFFCFFFC, vr, bytes(30)))


@pytest.mark.parametrize("vr", [*BROKEN, b"OW", b"ow"])
def test_pixels_with_a_broken_vr_are_found(tmp_path: Path, vr: bytes) -> None:
    assert_read(tmp_path, BEFORE + BEHIND + long(0x7FE00010, vr, bytes(64)))


@pytest.mark.parametrize("vr", BROKEN)
def test_first_element_with_a_broken_vr_is_skipped(tmp_path: Path, vr: bytes) -> None:
    assert_read(tmp_path, short(0x00080005, vr, b"ISO_IR 100") + BEFORE + BEHIND + PIXELS)


@pytest.mark.parametrize("vr", BROKEN)
def test_element_of_the_file_meta_is_skipped(tmp_path: Path, vr: bytes) -> None:
    assert_read(tmp_path, BEFORE + BEHIND + PIXELS, meta=short(0x00020003, vr, b"1.2.3\0"))


@pytest.mark.parametrize("vr", BROKEN)
def test_truncation_behind_an_element_without_a_vr_is_detected(vr: bytes) -> None:
    data_set = BEFORE + short(0x001021B0, vr, b"G0000000") + BEHIND + PIXELS
    for step in (1, 1 << 20):
        with pytest.raises(Refusal):
            received(data_set[:-2], step)


def test_element_that_fits_nowhere_is_malformed_and_not_truncated(tmp_path: Path) -> None:
    odd = struct.pack("<HH2sH", 0x0010, 0x21B0, b"--", 2) + b"\1\2\3\4\5\6\7"
    with pytest.raises(Unreadable, match="malformed"):
        read(stored(tmp_path, BEFORE + odd + BEHIND + PIXELS))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_end_as_a_header_or_a_reason(tmp_path: Path, data: Any) -> None:
    content = short(0x00080050, b"--", b"value ") + short(0x00100010, b"PN", b"In^N")
    whole = BEFORE + sequence(item(content, undefined=True), undefined=True) + short(0x001021B0, b"??", b"G0") + BEHIND
    changed = bytearray(whole + PIXELS)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(
            st.sampled_from(b"\0\1\2\x08\x10 -?ALNOSUlnu\xff")
        )
    data_set = bytes(changed)
    with suppress(Unreadable):
        read(stored(tmp_path, data_set))
    with suppress(Refusal):
        assert received(data_set, 7) == received(data_set)
