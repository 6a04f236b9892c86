"""Incomplete and damaged Huffman-coded JPEG streams are rejected, complete ones are decoded."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from db.errors import NotReportable
from worker.images.study import StoredInstance, images_of

if TYPE_CHECKING:
    import numpy.typing as npt

EOI = b"\xff\xd9"


def body(side: int = 256, seed: int = 3) -> npt.NDArray[np.uint8]:
    """A ramp with noise, and black below it as under a radiograph."""
    ramp = np.add.outer(np.arange(side), np.arange(side)) * 200 / (2 * side)
    image = (ramp + np.random.default_rng(seed).integers(0, 55, ramp.shape)).astype(np.uint8)
    image[-side // 8 :] = 0
    return image


def jpeg(image: npt.NDArray[np.uint8], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def stored(store: Any, image: npt.NDArray[np.uint8], *frames: bytes, table: bytes | None = None) -> StoredInstance:
    written: StoredInstance = store(image, Modality="XC")
    dataset = dcmread(written.path)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    if image.ndim == 3:
        dataset.PhotometricInterpretation = "YBR_FULL_422"
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    dataset.PixelData = encapsulate(list(frames))
    if table is not None:
        content = dataset.PixelData
        dataset.PixelData = content[:8] + table + content[8 + len(table) :]
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(written.path)
    return written


OPTIONS = [
    {"quality": 90},
    {"quality": 100},
    {"quality": 30},
    {"quality": 90, "progressive": True},
    {"quality": 75, "optimize": True},
    {"quality": 90, "restart_marker_blocks": 4},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_complete_image_is_decoded(store: Any, options: dict[str, Any]) -> None:
    grey, flat = body(), np.full((64, 64), 128, np.uint8)
    colour = np.stack([grey, grey[::-1], np.full_like(grey, 255)], axis=-1)

    for image in (grey, colour, flat, body(100), body(16)):
        assert images_of([stored(store, image, jpeg(image, **options))]).images


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.8])
def test_truncated_image_with_a_repaired_end_is_rejected(store: Any, options: dict[str, Any], kept: float) -> None:
    image = body()
    frame = jpeg(image, **options)

    with pytest.raises(NotReportable, match="^(truncated|undecodable)"):
        images_of([stored(store, image, frame[: int(kept * len(frame))] + EOI)])


@pytest.mark.parametrize("seed", range(4))
def test_image_with_zeroed_bytes_is_rejected(store: Any, seed: int) -> None:
    image = body(seed=seed)
    frame = jpeg(image, quality=90)
    middle = len(frame) // 2

    with pytest.raises(NotReportable, match="^undecodable"):
        images_of([stored(store, image, frame[:middle] + bytes(200) + frame[middle + 200 :])])


def test_a_few_bytes_after_the_end_are_ignored(store: Any) -> None:
    assert images_of([stored(store, body(), jpeg(body()) + b"junk")]).images


def test_offset_table_of_zeros_is_ignored(store: Any) -> None:
    frames = [body(seed=number) for number in range(4)]

    study = images_of([stored(store, frames[0], *map(jpeg, frames), table=bytes(16))])

    assert [image.frame for image in study.images] == [0, 1, 2, 3]


def test_fragments_under_a_native_transfer_syntax_are_malformed(store: Any) -> None:
    written = stored(store, body(), jpeg(body()))
    content = written.path.read_bytes()
    syntax = JPEGBaseline8Bit.encode() + b"\0" * (len(JPEGBaseline8Bit) % 2)
    native = b"1.2.840.10008.1.2.1\0"
    at = content.index(b"\2\0\x10\0UI")
    written.path.write_bytes(
        content[: at + 6] + len(native).to_bytes(2, "little") + native + content[at + 8 + len(syntax) :]
    )

    with pytest.raises(NotReportable, match="^malformed"):
        images_of([written])
