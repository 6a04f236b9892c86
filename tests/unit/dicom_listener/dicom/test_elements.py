"""The streaming reader of data sets: wanted values, truncation, limits."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from pydicom import Dataset, Sequence, dcmwrite
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from db.limits import MAX_ELEMENTS, MAX_NESTING
from dicom_listener.dicom import data_sets
from dicom_listener.dicom.elements import ElementReader
from dicom_listener.dicom.statuses import ExpandsTooFar, TooComplex, Truncated

STUDY = 0x0020000D
NAME = 0x00100010


def encoded(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(
        buffer,
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=False,
    )
    return buffer.getvalue()


def nested() -> Dataset:
    item = Dataset()
    item.PatientName = "Inner^Name"
    item.ReferencedSOPInstanceUID = "1.2.3"
    dataset = Dataset()
    dataset.PatientName = "Outer^Name"
    dataset.ReferencedImageSequence = Sequence([item, item])
    dataset.ReferencedImageSequence.is_undefined_length = True
    dataset.ReferencedImageSequence[0].is_undefined_length_sequence_item = True
    dataset.StudyInstanceUID = "1.2.34"
    return dataset


def read(data: bytes, step: int, *, big_endian: bool = False) -> ElementReader:
    reader = ElementReader({STUDY, NAME}, big_endian=big_endian)
    for offset in range(0, len(data), step):
        reader.feed(data[offset : offset + step])
    return reader


@pytest.mark.parametrize("step", [1, 3, 7, 16, 4096])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_top_level_values_are_found_in_any_fragments(syntax: str, step: int) -> None:
    reader = read(encoded(nested(), syntax), step, big_endian=syntax == ExplicitVRBigEndian)
    reader.finish()
    assert reader.understood
    assert reader.values == {STUDY: b"1.2.34", NAME: b"Outer^Name"}


@pytest.mark.parametrize("step", [1, 5, 4096])
def test_truncation_is_detected_at_every_offset(step: int) -> None:
    whole = encoded(nested())
    boundaries = {len(encoded(nested()[:tag])) for tag in (0x00100010, 0x00100011, 0x0020000D, 0x0020000E)}
    for end in set(range(1, len(whole))) - boundaries:
        with pytest.raises(Truncated):
            read(whole[:end], step).finish()


def test_value_length_of_four_gigabytes_uses_no_memory() -> None:
    reader = read(b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<I", 0xFFFFFFF0) + b"\0" * 10, 4096)
    with pytest.raises(Truncated):
        reader.finish()


def test_un_of_undefined_length_is_implicit_inside() -> None:
    inside = struct.pack("<HHI", 0x0010, 0x0010, 4) + b"In^N"
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inside + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    private = struct.pack("<HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF) + item
    data = private + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) + encoded(nested())
    reader = read(data, 4096)
    reader.finish()
    assert reader.understood
    assert reader.values[NAME] == b"Outer^Name"


def test_deep_nesting_is_refused() -> None:
    level = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    with pytest.raises(TooComplex):
        read(level * MAX_NESTING, 4096)


def test_too_many_elements_are_refused() -> None:
    reader = ElementReader(frozenset())
    chunk = struct.pack("<HH2sH", 0x0009, 0x0010, b"LO", 0) * 10_000
    for _ in range(MAX_ELEMENTS // 10_000):
        reader.feed(chunk)
    with pytest.raises(TooComplex):
        reader.feed(chunk)


@pytest.mark.parametrize(
    "oddity",
    [
        struct.pack("<HHI", 0xFFFE, 0xE00D, 0),
        struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
        struct.pack("<HHI", 0xFFFE, 0xE000, 0),
        struct.pack("<HH2sH", 0x0029, 0x1010, b"??", 0),
        struct.pack("<HH2sH", 0x0029, 0x1010, b"??", 6) + b"VALUES",
        struct.pack("<HH2sHI", 0x0029, 0x1010, b"??", 0, 0),
        struct.pack("<HH2sHI", 0x0029, 0x1010, b"??", 0, 6) + b"VALUES",
        struct.pack("<HH2sHI", 0x0029, 0x1010, b"ZZ", 0, 6) + b"VALUES",
    ],
)
@pytest.mark.parametrize("step", [1, 4096])
def test_truncated_pixel_data_is_detected_behind_an_encoding_fault(oddity: bytes, step: int) -> None:
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 100) + bytes(100)
    whole = encoded(nested()) + oddity + pixels
    reader = read(whole, step)
    reader.finish()
    assert reader.understood
    with pytest.raises(Truncated):
        read(whole[:-1], step).finish()


def test_garbage_behind_the_identity_is_tolerated() -> None:
    reader = read(encoded(nested()) + b"\x99\x99\x99\x99\0\0\0\0garbage", 4096)
    reader.finish()
    assert not reader.understood
    assert reader.values[STUDY] == b"1.2.34"


def test_trailing_zeros_are_padding() -> None:
    read(encoded(nested()) + b"\0", 4096).finish()


def deflated(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


@pytest.mark.parametrize("step", [1, 100, 100_000])
def test_deflated_data_set_is_read(step: int) -> None:
    reader = data_sets.InflatingReader({STUDY, NAME})
    data = deflated(encoded(nested())) + b"\0"
    for offset in range(0, len(data), step):
        reader.feed(data[offset : offset + step])
    reader.finish()
    assert reader.values[STUDY] == b"1.2.34"


def test_truncated_deflated_data_set_is_refused() -> None:
    reader = data_sets.InflatingReader({STUDY})
    reader.feed(deflated(encoded(nested()))[:-3])
    with pytest.raises(Truncated):
        reader.finish()


def test_deflate_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_sets, "MAX_INFLATED_BYTES", 2**20)
    bomb = deflated(b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<I", 2**21) + bytes(2**21))
    with pytest.raises(ExpandsTooFar):
        data_sets.InflatingReader({STUDY}).feed(bomb)


def test_invalid_deflate_stream_is_refused() -> None:
    with pytest.raises(ExpandsTooFar):
        data_sets.InflatingReader({STUDY}).feed(b"\xff" * 100)
