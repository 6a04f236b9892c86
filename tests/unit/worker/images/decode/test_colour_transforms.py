"""Colour transforms of codestreams, undone once whatever the header's label (PS3.5 8.2.4)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import jpeg_ls
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, VLPhotographicImageStorage

from worker.images.decode.codestream import Codec, Codestream, colours_of, inspect
from worker.images.study import images_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.images.study_images import RenderedImage

    Pixels = npt.NDArray[np.uint8]

QUARTERS = np.kron(np.arange(4).reshape(2, 2), np.ones((48, 48), int))
RGB: Pixels = np.array([(200, 30, 30), (30, 180, 30), (30, 30, 200), (180, 180, 60)], np.uint8)[QUARTERS]
YCC: Pixels = convert_color_space(RGB, "RGB", "YBR_FULL")
JFIF = b"\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0"


@pytest.fixture
def shown(store: Any) -> Any:
    def show(frame: bytes, photometric: str, syntax: str) -> RenderedImage:
        stored = store(
            RGB, PhotometricInterpretation=photometric, SOPClassUID=VLPhotographicImageStorage, Modality="XC"
        )
        dataset = dcmread(stored.path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(stored.path)
        return images_of([stored]).images[0]

    return show


def is_right(image: RenderedImage) -> bool:
    return bool(np.abs(image.pixels.astype(int) - RGB).mean() < 3)


def jpeg_2000(pixels: Pixels, *, transform: int, boxes: bool = False, irreversible: bool = False) -> bytes:
    file = io.BytesIO()
    options = {"mct": transform, "no_jp2": not boxes, "irreversible": irreversible}
    Image.fromarray(pixels).save(file, "JPEG2000", **options)
    return file.getvalue()


@pytest.mark.parametrize("irreversible", [False, True])
@pytest.mark.parametrize(
    ("pixels", "transform", "label", "contradicts"),
    [
        (RGB, 1, "YBR_RCT", False),
        (RGB, 1, "YBR_ICT", False),
        (RGB, 0, "RGB", False),
        (YCC, 0, "YBR_FULL", False),
        (YCC, 0, "YBR_FULL_422", False),
        (RGB, 1, "RGB", False),
        (RGB, 1, "YBR_FULL", True),
        (YCC, 0, "YBR_ICT", True),
        (RGB, 0, "YBR_RCT", True),
    ],
)
def test_component_transform_of_jpeg_2000_counts_more_than_the_label(
    shown: Any, pixels: Pixels, transform: int, label: str, contradicts: bool, irreversible: bool
) -> None:
    image = shown(jpeg_2000(pixels, transform=transform, irreversible=irreversible), label, JPEG2000Lossless)

    assert is_right(image)
    assert [warning.startswith("possibly in wrong colours") for warning in image.warnings] == [True] * contradicts


def test_colours_in_the_boxes_of_a_jpeg_2000_file_are_not_applied_as_well(shown: Any) -> None:
    file = io.BytesIO()
    Image.fromarray(RGB).convert("YCbCr").save(file, "JPEG2000", mct=0, irreversible=False)

    assert is_right(shown(file.getvalue(), "YBR_FULL", JPEG2000Lossless))
    assert is_right(shown(jpeg_2000(RGB, transform=1, boxes=True), "YBR_RCT", JPEG2000Lossless))


@pytest.mark.parametrize("transform", [0, 1])
def test_transform_of_htj2k_is_read_like_that_of_jpeg_2000(transform: int) -> None:
    frame = bytearray(jpeg_2000(RGB, transform=transform))
    frame[6] |= 0x40

    stream = inspect(bytes(frame))

    assert stream.codec is Codec.HTJ2K
    assert colours_of(stream, "YBR_FULL")[0] == ("RGB" if transform else "YBR_FULL")


@pytest.mark.parametrize(
    ("pixels", "label"), [(RGB, "RGB"), (YCC, "YBR_FULL"), (RGB, "YBR_RCT"), (YCC, "YBR_ICT"), (YCC, "YBR_FULL_422")]
)
def test_jpeg_ls_has_no_transform_and_its_label_counts(shown: Any, pixels: Pixels, label: str) -> None:
    frame = bytes(jpeg_ls.encode_array(pixels, lossy_error=0, interleave_mode=2))

    assert is_right(shown(frame, label, JPEGLSLossless))


def test_own_transform_of_jpeg_ls_is_undone_by_its_decoder() -> None:
    stream = Codestream(Codec.JPEG_LS, 8, 8, 3, "RGB")

    assert colours_of(stream, "YBR_FULL") == ("RGB", "")


def jpeg(pixels: Pixels, *markers: bytes, keep: bool = False) -> bytes:
    """A JPEG with *markers* in place of its own; *keep* stores the samples untransformed, with ids 1, 2 and 3."""
    file = io.BytesIO()
    image = Image.frombytes("YCbCr", pixels.shape[1::-1], pixels.tobytes()) if keep else Image.fromarray(pixels)
    image.save(file, "JPEG", quality=95, subsampling=0)
    stream = file.getvalue()
    return stream[:2] + b"".join(markers) + stream[4 + int.from_bytes(stream[4:6]) :]


def adobe(transform: int) -> bytes:
    return b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize(
    ("markers", "keep"),
    [((JFIF,), False), ((adobe(1),), False), ((JFIF, adobe(1)), False), ((adobe(0),), True), ((JFIF, adobe(0)), True)],
)
def test_markers_of_jpeg_count_more_than_the_label(
    shown: Any, markers: tuple[bytes, ...], keep: bool, label: str
) -> None:
    assert is_right(shown(jpeg(RGB, *markers, keep=keep), label, JPEGBaseline8Bit))


@pytest.mark.parametrize(("label", "keep"), [("RGB", True), ("YBR_FULL", False), ("YBR_FULL_422", False)])
def test_label_of_an_unmarked_jpeg_counts(shown: Any, label: str, keep: bool) -> None:
    assert is_right(shown(jpeg(RGB, keep=keep), label, JPEGBaseline8Bit))


def test_label_of_jpeg_2000_on_native_samples_is_named(store: Any) -> None:
    photo = {"SOPClassUID": VLPhotographicImageStorage, "Modality": "XC"}

    image = images_of([store(RGB, PhotometricInterpretation="YBR_RCT", **photo)]).images[0]

    assert is_right(image)
    contradiction = "the samples have no component transform, which contradicts YBR_RCT"
    assert image.warnings == [f"possibly in wrong colours: {contradiction}"]


@pytest.mark.parametrize("near", [0, 3])
def test_error_of_a_jpeg_ls_scan_is_read(near: int) -> None:
    grey = np.arange(4096, dtype=np.uint16).reshape(64, 64)

    assert inspect(bytes(jpeg_ls.encode_array(grey, lossy_error=near))).error == near
