from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from worker.images.files import read
from worker.images.render import render

if TYPE_CHECKING:
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
    """A shared functional group, and a sequence nobody wants that holds a decoy."""
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


def test_a_header_reads_the_same_wherever_the_first_part_of_the_file_ends(store: Any) -> None:
    # Rows and Columns, a sequence and Pixel Data come to lie across byte 16384, one byte after the other.
    item = Dataset()
    item.CodeMeaning = "wrist"
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for padding in range(15600, 16300, 2):
        stored = store(pixels, PixelSpacing=[0.5, 0.25], AnatomicRegionSequence=[item], StrainDescription="x" * padding)
        header = read(stored.path)
        assert (header.integer("Rows"), header.numbers("PixelSpacing")) == (64, (0.5, 0.25))
        assert header.items("AnatomicRegionSequence")[0].text("CodeMeaning") == "wrist"
        assert header.where_pixels_are().end == stored.path.stat().st_size
        stored.path.unlink()


def test_values_that_are_no_numbers_read_as_absent(store: Any) -> None:
    stored = store(np.zeros((64, 64), np.uint16), WindowCenter=40, WindowWidth=400)
    stored.path.write_bytes(stored.path.read_bytes().replace(b"\x50\x10DS\4\x0040.0", b"\x50\x10DS\4\x00wide"))

    assert read(stored.path).numbers("WindowCenter") == ()


def test_nothing_of_the_patient_is_kept(store: Any) -> None:
    stored = store(np.zeros((64, 64), np.uint16), PatientName="Doe^Jane", PatientID="4711", AccessionNumber="A1")

    kept = b"".join(value for _, _, value in read(stored.path).values.values())

    assert b"Doe" not in kept
    assert b"4711" not in kept
