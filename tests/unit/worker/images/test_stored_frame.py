"""Message of a stored frame against pydicom's own values and this package's rendering."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut

from worker.images.decode.files import read
from worker.images.errors import Unreadable
from worker.images.render.render import render
from worker.images.stored_frame import message_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


class Message(NamedTuple):
    described: dict[str, Any]
    pixels: npt.NDArray[Any]
    levels: npt.NDArray[np.uint8]
    values: npt.NDArray[np.float32]

    def shown(self) -> npt.NDArray[np.uint8]:
        """Levels of the pixels in the usual presentation, as a viewer looks them up."""
        return self.levels[self.pixels.view(self.pixels.dtype.str.replace("i", "u"))]


def message(path: Path, index: int = 0) -> Message:
    body = message_of(path, index)
    (length,) = struct.unpack_from("<I", body)
    assert (4 + length) % 8 == 0
    described = json.loads(body[4 : 4 + length])
    shape = (described["rows"], described["columns"])
    if described["type"] == "rgb":
        pixels = np.frombuffer(body, np.uint8, offset=4 + length).reshape(*shape, 3)
        return Message(described, pixels, pixels[:0, 0, 0], np.empty(0, np.float32))
    kind = np.dtype(described["type"]).newbyteorder("<")
    pixels = np.frombuffer(body, kind, count=shape[0] * shape[1], offset=4 + length).reshape(shape)
    at = 4 + length + pixels.nbytes
    levels = np.frombuffer(body, np.uint8, count=256**kind.itemsize, offset=at)
    values = np.frombuffer(body, "<f4", offset=at + levels.nbytes)
    return Message(described, pixels, levels, values)


def described_by_pydicom(path: Path) -> npt.NDArray[Any]:
    dataset = dcmread(path)
    return apply_modality_lut(dataset.pixel_array, dataset)


RAMP = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)


@pytest.mark.parametrize(
    "elements",
    [
        {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PixelPaddingValue": -2048, "PixelPaddingRangeLimit": -2000, "PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": 0, "WindowWidth": 100, "VOILUTFunction": "SIGMOID"},
    ],
)
def test_values_are_those_of_pydicom_and_levels_those_of_the_rendering(store: Any, elements: dict[str, Any]) -> None:
    path = store(RAMP, **elements).path
    found = message(path)
    values = found.pixels * found.described["slope"] + found.described["intercept"]

    assert (values == described_by_pydicom(path)).all()
    assert (found.shown() == render(read(path), 0)[0]).all()
    assert found.described["inverted"] == ("PhotometricInterpretation" in elements)


def test_unused_bits_are_removed_and_signs_extended(store: Any) -> None:
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    path = store(stored | 0xA000, BitsStored=12, HighBit=11, PixelRepresentation=1).path
    found = message(path)

    assert found.described["type"] == "int16"
    assert (found.pixels == np.where(stored < 2048, stored.astype(np.int16), stored.astype(np.int16) - 4096)).all()
    assert (found.shown() == render(read(path), 0)[0]).all()


def test_big_endian_samples_become_little_endian(store: Any) -> None:
    path = store(RAMP).path
    read_back = dcmread(path)
    # A new one may be written in another byte order.
    dataset = Dataset(read_back)
    dataset.file_meta = read_back.file_meta
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.2"
    dataset.PixelData = RAMP.byteswap().tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)

    assert (message(path).pixels == RAMP).all()


def test_modality_table_is_sent_for_every_value(store: Any) -> None:
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [256, 0, 16], "US"
    table.LUTData = (np.arange(256, dtype=np.uint16) ** 2 // 2).tobytes()
    table["LUTData"].VR = "OW"
    path = store(np.arange(256, dtype=np.uint8).reshape(16, 16), ModalityLUTSequence=[table]).path
    found = message(path)

    assert found.described["modality_table"]
    assert (found.values[found.pixels] == described_by_pydicom(path)).all()


def test_colour_is_sent_as_rgb(store: Any) -> None:
    colours = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)

    assert (message(store(colours, Modality="US").path).pixels == colours).all()


def test_edges_name_the_directions_of_the_patient_or_why_they_are_unknown(store: Any) -> None:
    frontal = message(store(RAMP, PatientOrientation=["L", "F"], ImageLaterality="L").path).described
    unknown = message(store(RAMP).path).described
    axial = message(store(RAMP, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]).path).described
    contradictory = message(
        store(RAMP, ImageOrientationPatient=[-1, 0, 0, 0, 1, 0], PatientOrientation=["L", "P"]).path
    ).described

    assert frontal["edges"] == {"left": "R", "right": "L", "top": "H", "bottom": "F"}
    assert frontal["laterality"] == "L"
    assert axial["edges"] == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert (unknown["edges"], unknown["orientation_problem"]) == (None, "the orientation is not given")
    assert (contradictory["edges"], contradictory["orientation_problem"]) == (
        None, "the header gives two contradictory orientations",
    )  # fmt: skip


def test_frame_has_its_own_values_and_the_number_of_all(store: Any) -> None:
    stack = np.stack([RAMP, RAMP[::-1]])
    path = store(stack, PixelSpacing=[2, 1]).path

    assert (message(path, 1).pixels == RAMP[::-1]).all()
    assert message(path, 1).described["frames"] == 2
    assert message(path).described["pixel_aspect"] == 2
    with pytest.raises(Unreadable, match="does not exist"):
        message_of(path, 2)


def test_values_of_more_than_16_bits_are_refused_and_not_cut(store: Any) -> None:
    wide = RAMP.astype(np.int32)

    assert (message(store(wide).path).pixels == RAMP).all()
    with pytest.raises(Unreadable, match="more than 16 bits"):
        message_of(store(wide * 100).path, 0)
