from __future__ import annotations

import os
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from worker.images.decode.files import read
from worker.images.errors import Unreadable
from worker.images.render.render import render

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def rewritten(path: Path, syntax: str, *, undefined: bool = False) -> None:
    dataset = dcmread(path)
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    if not little:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    if undefined:
        for sequence in ("SharedFunctionalGroupsSequence", "ReferencedStudySequence"):
            dataset[sequence].is_undefined_length = True
            dataset[sequence].value[0].is_undefined_length_sequence_item = True
    dcmwrite(path, dataset, implicit_vr=implicit, little_endian=little, force_encoding=True)


@pytest.fixture
def nested() -> dict[str, Any]:
    """A shared functional group, and an unwanted sequence that holds a decoy."""
    spacing, group, decoy = Dataset(), Dataset(), Dataset()
    spacing.PixelSpacing = [0.5, 0.25]
    group.PixelMeasuresSequence = [spacing]
    decoy.Rows, decoy.PixelData = 9999, b"\1\2"
    decoy["PixelData"].VR = "OW"
    return {"SharedFunctionalGroupsSequence": [group], "ReferencedStudySequence": [decoy]}


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize(
    "syntax",
    [
        "1.2.840.10008.1.2.1",
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_every_native_encoding_reads_the_same(store: Any, nested: dict[str, Any], syntax: str, undefined: bool) -> None:
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    stored = store(pixels, WindowCenter=[2047.5, 9], WindowWidth=[4096, 2], ImageType=["ORIGINAL", "PRIMARY"], **nested)
    rewritten(stored.path, syntax, undefined=undefined)

    header = read(stored.path)

    assert (header.integer("Rows"), header.numbers("WindowCenter"), header.texts("ImageType")) == (
        64,
        (2047.5, 9.0),
        ["ORIGINAL", "PRIMARY"],
    )
    assert header.shared().numbers("PixelSpacing") == (0.5, 0.25)
    assert (np.diff(render(header, 0)[0].ravel().astype(int)) >= 0).all()


def test_explicit_vrs_count_more_than_an_implicit_transfer_syntax(store: Any) -> None:
    stored = store(np.arange(4096, dtype=np.uint16).reshape(64, 64))
    content = stored.path.read_bytes()
    stored.path.write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0", 1))
    assert stored.path.read_bytes() != content

    assert (np.diff(render(read(stored.path), 0)[0].ravel().astype(int)) >= 0).all()


def test_header_reads_the_same_across_the_first_read(store: Any) -> None:
    # Rows and Columns, a sequence and Pixel Data lie across byte 16384, at every offset.
    item = Dataset()
    item.CodeMeaning = "wrist"
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for padding in range(15600, 16300, 2):
        stored = store(pixels, PixelSpacing=[0.5, 0.25], AnatomicRegionSequence=[item], StrainDescription="x" * padding)
        header = read(stored.path)
        assert (header.integer("Rows"), header.numbers("PixelSpacing")) == (64, (0.5, 0.25))
        assert header.items("AnatomicRegionSequence")[0].text("CodeMeaning") == "wrist"
        assert header.pixel_data().end == stored.path.stat().st_size
        stored.path.unlink()


def test_non_numeric_values_read_as_absent(store: Any) -> None:
    stored = store(np.zeros((64, 64), np.uint16), WindowCenter=40, WindowWidth=400)
    stored.path.write_bytes(stored.path.read_bytes().replace(b"\x50\x10DS\4\x0040.0", b"\x50\x10DS\4\x00wide"))

    assert read(stored.path).numbers("WindowCenter") == ()


def test_header_keeps_no_patient_data(store: Any) -> None:
    stored = store(np.zeros((64, 64), np.uint16), PatientName="Doe^Jane", PatientID="4711", AccessionNumber="A1")

    kept = b"".join(value for _, _, value in read(stored.path).values.values())

    assert b"Doe" not in kept
    assert b"4711" not in kept


@pytest.mark.parametrize("length", [0x4142, 0x4E42, 0x5A5A])
@pytest.mark.parametrize("undefined", [False, True])
def test_item_whose_length_spells_a_vr_is_read_as_item(store: Any, length: int, undefined: bool) -> None:
    # A text fills the item up to *length* bytes: 8 + 6, 12 + 8192 and the 12 of its own head are used.
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.StrainDescription = "x" * (length - 14 - 12 - 8192 - 12)
    table.add_new("LUTData", "OW", np.arange(4096, dtype=np.uint16)[::-1].tobytes())
    stored = store(np.arange(4096, dtype=np.uint16).reshape(64, 64), VOILUTSequence=[table])
    dataset = dcmread(stored.path)
    dataset["VOILUTSequence"].is_undefined_length = undefined
    dataset.save_as(stored.path)
    assert length.to_bytes(4, "little") in stored.path.read_bytes()

    assert (np.diff(render(read(stored.path), 0)[0].ravel().astype(int)) <= 0).all()


@pytest.mark.parametrize("size", [512, 800, 1024])
@pytest.mark.parametrize("padding", [0, 1, 2, 3])
def test_padding_after_a_deflated_data_set_is_ignored(store: Any, size: int, padding: int) -> None:
    stored = store(np.zeros((size, size), np.uint16))
    rewritten(stored.path, DeflatedExplicitVRLittleEndian)
    stored.path.write_bytes(stored.path.read_bytes() + b"\0" * padding)

    assert read(stored.path).integer("Rows") == size


def test_deflated_data_set_that_ends_behind_a_full_piece_is_read(tmp_path: Path) -> None:
    # A few zeros more than 1 MiB: of some lengths zlib holds the last back when all input is consumed.
    filler = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 1 << 20) + bytes(1 << 20)
    syntax = DeflatedExplicitVRLittleEndian.encode()
    path = tmp_path / "deflated.dcm"
    for extra in range(0, 300, 4):
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        body = packer.compress(filler + bytes(extra)) + packer.flush()
        path.write_bytes(bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax + body)

        assert read(path).pixels is None, extra


def test_truncated_deflated_data_set_is_rejected(store: Any) -> None:
    stored = store(np.random.default_rng(1).integers(0, 4096, (64, 64), np.uint16))
    rewritten(stored.path, DeflatedExplicitVRLittleEndian)
    stored.path.write_bytes(stored.path.read_bytes()[:-100])

    with pytest.raises(Unreadable, match="truncated"):
        read(stored.path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_pipe_or_folder_at_the_place_of_a_stored_file_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "odd.dcm")

    with pytest.raises(Unreadable, match="no regular file"):
        read(tmp_path / "odd.dcm")
