from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import ExplicitVRBigEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage

from worker.images.decode.files import read
from worker.images.render.render import render

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.images.study import StoredInstance


@pytest.fixture
def photo() -> npt.NDArray[np.uint8]:
    """A smooth colour image, 48 x 64."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([4 * x, 5 * y, 255 - 2 * (x + y)], axis=-1).clip(0, 255).astype(np.uint8)


def drawn(stored: StoredInstance, frame: int = 0) -> npt.NDArray[np.uint8]:
    return render(read(stored.path), frame)[0]


def test_rgb_is_unchanged_in_either_planar_configuration(store: Any, photo: npt.NDArray[np.uint8]) -> None:
    planes = np.moveaxis(photo, -1, 0).tobytes()

    assert (drawn(store(photo)) == photo).all()
    assert (drawn(store(photo, PlanarConfiguration=1, PixelData=planes)) == photo).all()


def test_ybr_full_is_converted(store: Any, photo: npt.NDArray[np.uint8]) -> None:
    ybr = convert_color_space(photo, "RGB", "YBR_FULL")

    assert np.abs(drawn(store(ybr, PhotometricInterpretation="YBR_FULL")).astype(int) - photo).max() <= 2


@pytest.mark.parametrize(("samples", "label"), [("RGB", "YBR_FULL"), ("YBR_FULL", "RGB"), ("RGB", "RGB")])
def test_grey_in_the_wrong_colour_space_is_noticed(store: Any, samples: str, label: str) -> None:
    grey = np.zeros((64, 96, 3), np.uint8)
    grey[16:48, 24:72] = 5 * np.arange(48, dtype=np.uint8)[:, None]
    written = grey if samples == "RGB" else convert_color_space(grey, "RGB", samples)

    steps = render(read(store(written, PhotometricInterpretation=label).path), 0)[1]

    assert ("colour_problem" in steps) == (samples != label)


def test_ybr_full_422_is_expanded_only_if_the_length_agrees(store: Any, photo: npt.NDArray[np.uint8]) -> None:
    ybr = convert_color_space(np.repeat(photo[:, ::2], 2, axis=1), "RGB", "YBR_FULL").reshape(-1, 2, 3)
    packed = np.stack([ybr[:, 0, 0], ybr[:, 1, 0], ybr[:, 0, 1], ybr[:, 0, 2]], axis=1).tobytes()

    half = drawn(store(photo, PhotometricInterpretation="YBR_FULL_422", PixelData=packed))
    full = drawn(store(photo, PhotometricInterpretation="YBR_FULL_422", PixelData=ybr.tobytes()))

    assert np.abs(half.astype(int) - full).max() <= 2


def test_sixteen_bit_colour_keeps_its_upper_bits(store: Any, photo: npt.NDArray[np.uint8]) -> None:
    assert (drawn(store(photo.astype(np.uint16) << 8 | 255)) == photo).all()


@pytest.mark.parametrize("big_endian", [False, True])
def test_palette_is_read_in_either_byte_order(store: Any, big_endian: bool) -> None:
    order = ">" if big_endian else "<"
    entries = {name: np.roll(np.arange(256), shift) for name, shift in (("Red", 0), ("Green", 50), ("Blue", 100))}
    pixels = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64)
    tables: dict[str, Any] = {}
    for name, table in entries.items():
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tables[f"{name}PaletteColorLookupTableData"] = (table * 257).astype(f"{order}u2").tobytes()
    stored = store(pixels, PhotometricInterpretation="PALETTE COLOR", **tables)
    if big_endian:
        dataset = dcmread(stored.path)
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        dataset["PixelData"].VR = "OB"
        dcmwrite(stored.path, dataset, implicit_vr=False, little_endian=False, force_encoding=True)

    rgb = drawn(stored)

    assert (rgb == np.stack([entries[name][pixels] for name in entries], axis=-1)).all()


def jpeg(image: npt.NDArray[np.uint8], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0, **options)
    return buffer.getvalue()


def as_jpeg(store: Any, image: npt.NDArray[np.uint8], frame: bytes, photometric: str) -> StoredInstance:
    stored: StoredInstance = store(image, PhotometricInterpretation=photometric)
    dataset = dcmread(stored.path)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(stored.path)
    return stored


def test_jpeg_marked_as_ycbcr_is_converted_against_its_header(store: Any, photo: npt.NDArray[np.uint8]) -> None:
    for photometric in ("YBR_FULL_422", "RGB"):
        shown = drawn(as_jpeg(store, photo, jpeg(photo), photometric))
        assert np.abs(shown.astype(int) - photo).mean() < 2


def test_unmarked_jpeg_follows_its_header(store: Any, photo: npt.NDArray[np.uint8]) -> None:
    marked = jpeg(photo)
    unmarked = marked[:2] + marked[4 + int.from_bytes(marked[4:6]) :]
    stored_as_rgb = np.asarray(Image.fromarray(photo).convert("YCbCr"))

    as_ybr = drawn(as_jpeg(store, photo, unmarked, "YBR_FULL_422"))
    as_rgb = drawn(as_jpeg(store, photo, unmarked, "RGB"))

    assert np.abs(as_ybr.astype(int) - photo).mean() < 2
    assert np.abs(as_rgb.astype(int) - stored_as_rgb).mean() < 2


def test_progressive_jpeg_is_decoded(store: Any, photo: npt.NDArray[np.uint8]) -> None:
    shown = drawn(as_jpeg(store, photo, jpeg(photo, progressive=True), "YBR_FULL_422"))

    assert np.abs(shown.astype(int) - photo).mean() < 2


@pytest.mark.parametrize(("declared", "held"), [(16, 8), (16, 12), (12, 8), (16, 16), (16, 15)])
def test_palette_is_scaled_by_the_bits_that_it_holds(store: Any, declared: int, held: int) -> None:
    entries = np.arange(256) * (2**held - 1) // 255
    tables: dict[str, Any] = {}
    for name in ("Red", "Green", "Blue"):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, declared]
        tables[f"{name}PaletteColorLookupTableData"] = entries.astype("<u2").tobytes()
    pixels = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64)

    rgb = drawn(store(pixels, PhotometricInterpretation="PALETTE COLOR", **tables))

    # A palette that is merely dark stays dark.
    white = 127 if held == 15 else 255
    assert np.abs(rgb[..., 0].astype(int) - pixels * (white / 255)).max() <= 1
