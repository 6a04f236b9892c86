"""Lookup tables against their definition, where pydicom's functions differ from it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from db.errors import NotReportable
from worker.images.decode.files import read
from worker.images.render.render import render
from worker.images.render.windows import Window
from worker.images.study import images_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.images.study import StoredInstance

TWELVE = np.linspace(0, 4095, 4096).astype(np.uint16).reshape(64, 64)
CURVE = 255 * (np.arange(4096) / 4095) ** 2


def item(first: int, depth: int, entries: npt.NDArray[Any], vr: str = "US", claimed: int = 4096) -> Dataset:
    table = Dataset()
    table.add_new("LUTDescriptor", vr, [claimed, first, depth])
    table.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return table


def implicit(stored: StoredInstance) -> StoredInstance:
    dataset = dcmread(stored.path)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dcmwrite(stored.path, dataset, implicit_vr=True, little_endian=True, force_encoding=True)
    return stored


def shown(stored: StoredInstance, window: Window | None = None) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    levels, transform = render(read(stored.path), 0, window=window)
    return levels.astype(float), transform


@pytest.mark.parametrize("depth", [8, 10, 12, 16])
def test_voi_lut_of_4096_entries_is_applied_at_any_depth(store: Any, depth: int) -> None:
    entries = np.round(CURVE * (2**depth - 1) / 255)

    levels, transform = shown(store(TWELVE, VOILUTSequence=[item(0, depth, entries)], WindowCenter=1, WindowWidth=2))

    assert transform["voi"] == "lookup table"
    assert np.abs(levels.ravel() - CURVE).max() < 2


def test_values_beyond_the_table_get_its_last_entry(store: Any) -> None:
    stored = store(
        TWELVE, RescaleSlope=40, RescaleIntercept=0, VOILUTSequence=[item(0, 16, np.arange(65536), claimed=0)]
    )

    levels, _ = shown(stored)

    assert np.abs(levels.ravel() - np.clip(40 * TWELVE.ravel().astype(int), 0, 65535) / 257).max() < 2


@pytest.mark.parametrize("rescaled", [False, True])
def test_first_value_of_a_voi_lut_is_signed_if_its_input_can_be(store: Any, rescaled: bool) -> None:
    voi = {"VOILUTSequence": [item(-1024, 16, CURVE * 257, "SS")]}
    signed = store(TWELVE.astype(np.int16) - 1024, **voi)
    moved = store(TWELVE, RescaleSlope=1, RescaleIntercept=-1024, **voi)

    levels, _ = shown(implicit(moved if rescaled else signed))

    assert np.abs(levels.ravel() - CURVE).max() < 2


def test_first_value_of_a_modality_lut_is_signed_if_the_pixels_are(store: Any) -> None:
    table = {"ModalityLUTSequence": [item(-1024, 16, CURVE * 257, "SS")]}

    levels, _ = shown(implicit(store(TWELVE.astype(np.int16) - 1024, **table)), Window(32768, 65536))

    assert np.abs(levels.ravel() - CURVE).max() < 2


def test_window_replaces_a_table_that_is_too_short(store: Any) -> None:
    short = [item(0, 12, np.arange(100))]

    voi = shown(store(TWELVE, VOILUTSequence=short, WindowCenter=2048, WindowWidth=4096))
    modality = shown(store(TWELVE, ModalityLUTSequence=short, WindowCenter=2048, WindowWidth=4096))

    assert voi[1]["voi"] == modality[1]["voi"] == "window"
    assert modality[1]["modality"] == "lookup table not usable: a lookup table is shorter than declared"
    assert np.abs(voi[0].ravel() - np.arange(4096) / 16).max() < 2


def test_window_replaces_a_table_without_entries(store: Any) -> None:
    empty = Dataset()
    empty.add_new("LUTDescriptor", "US", [4096, 0, 12])

    _, transform = shown(store(TWELVE, VOILUTSequence=[empty], WindowCenter=2048, WindowWidth=4096))

    assert transform["voi"] == "window"


def test_entries_above_the_declared_depth_set_the_depth(store: Any) -> None:
    levels, _ = shown(store(TWELVE, VOILUTSequence=[item(0, 8, CURVE * 257)]))

    assert np.abs(levels.ravel() - CURVE).max() < 2


@pytest.mark.filterwarnings("error")
def test_excessive_rescale_slope_is_ignored(store: Any) -> None:
    levels, _ = shown(store(TWELVE, RescaleSlope="1e305", RescaleIntercept="-1e308"))

    assert np.ptp(levels) > 200


SAMPLES = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64)
TABLES = {"Red": np.arange(256), "Green": 255 - np.arange(256), "Blue": np.arange(256) * 7 % 256}
EXPECTED = np.stack([table[SAMPLES] for table in TABLES.values()], axis=-1)


def palette(count: int = 256, first: int = 0, bits: int = 16) -> dict[str, Any]:
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, table in TABLES.items():
        entries = (table * 257).astype("<u2").tobytes() if bits == 16 else table[:count].astype("u1").tobytes()
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [count, first, bits]
        elements[f"{colour}PaletteColorLookupTableData"] = entries + b"\0" * (len(entries) % 2)
    return elements


def test_palette_indices_are_signed_stored_values(store: Any) -> None:
    wide = SAMPLES.astype(np.uint16)
    signed = (SAMPLES.astype(np.int16) - 128).astype(np.int8)

    drawn = [
        shown(store(wide | 0x8000, BitsStored=8, HighBit=7, **palette()))[0],
        shown(store(wide << 8, BitsStored=8, HighBit=15, **palette()))[0],
        shown(implicit(store(signed, **palette(first=-128))))[0],
    ]

    assert all((rgb == EXPECTED).all() for rgb in drawn)


def test_odd_number_of_byte_entries_is_padded(store: Any) -> None:
    fewer = np.minimum(SAMPLES, 254)

    rgb, _ = shown(store(fewer, **palette(count=255, bits=8)))

    assert (rgb == np.stack([table[fewer] for table in TABLES.values()], axis=-1)).all()


def test_big_endian_byte_entries_are_read_in_order(store: Any) -> None:
    elements = palette(bits=8)
    for colour in TABLES:
        data = elements[f"{colour}PaletteColorLookupTableData"]
        elements[f"{colour}PaletteColorLookupTableData"] = np.frombuffer(data, "<u2").byteswap().tobytes()
    stored = store(SAMPLES, **elements)
    dataset = dcmread(stored.path)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset["PixelData"].VR = "OB"
    dcmwrite(stored.path, dataset, implicit_vr=False, little_endian=False, force_encoding=True)

    assert (shown(stored)[0] == EXPECTED).all()


def segmented(words: list[int], count: int = 256) -> dict[str, Any]:
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in TABLES:
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [count, 0, 16]
        elements[f"Segmented{colour}PaletteColorLookupTableData"] = struct.pack(f"<{len(words)}H", *words)
    return elements


def test_segmented_palette_is_expanded_with_its_indirect_segments(store: Any) -> None:
    # Black, a ramp to white in 127 steps, and from byte 6 on that ramp again.
    words = [0, 1, 0, 1, 127, 0xFFFF, 0, 1, 0, 2, 1, 6, 0]

    rgb, _ = shown(store(SAMPLES, **segmented(words)))

    ramp = np.linspace(0, 255, 128)
    assert np.abs(rgb[..., 0] - np.concatenate([ramp, ramp])[SAMPLES]).max() < 2


@pytest.mark.parametrize(
    "words",
    [[0, 1, 0] + [1, 0xFFFF, 0xFFFF] * 400, [9, 1, 1], [2, 1, 0, 0], [0, 1, 0, 2, 1, 6, 0], [0, 100, 1], [1, 255, 9]],
)
def test_invalid_segmented_palette_is_rejected(store: Any, words: list[int]) -> None:
    with pytest.raises(NotReportable, match="^malformed"):
        images_of([store(SAMPLES, **segmented(words))])


def test_colour_of_few_bits_reaches_white(store: Any) -> None:
    colours = np.stack([SAMPLES] * 3, axis=-1)

    rgb, _ = shown(store(colours >> 3, BitsStored=5, HighBit=4))

    assert (rgb.min(), rgb.max()) == (0, 255)


def test_16_bit_colour_is_read_below_its_high_bit(store: Any) -> None:
    colours = np.stack([SAMPLES.astype(np.uint16)] * 3, axis=-1)

    high, dirty = (
        shown(store(colours << 8, BitsStored=12, HighBit=15))[0],
        shown(store(colours << 4 | 0xA000, BitsStored=12, HighBit=11))[0],
    )

    assert (high == colours).all()
    assert (dirty == colours).all()
