from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from worker.images.decode.files import read
from worker.images.render import quality
from worker.images.render.framing import MAX_PIXELS, framed
from worker.images.study import images_of

BODY = (120 + 80 * np.sin(np.mgrid[0:200, 0:200].sum(axis=0) / 15)).astype(np.uint8)


def test_oblong_pixels_are_made_square(store: Any) -> None:
    stretched, steps = framed(read(store(BODY, PixelSpacing=[2.0, 1.0]).path), BODY)

    assert stretched.shape == (400, 200, 3)
    assert steps["resized"] == [400, 200]


def test_zero_spacing_does_not_hide_the_aspect_ratio(store: Any) -> None:
    header = read(store(BODY, PixelSpacing=[0, 0], PixelAspectRatio=[2, 1]).path)

    assert framed(header, BODY)[1]["resized"] == [400, 200]


def test_black_border_is_cropped_and_recorded(store: Any) -> None:
    bordered = np.pad(BODY, ((40, 0), (30, 50)))

    cut, steps = framed(read(store(bordered).path), bordered)

    assert steps["crop"] == [40, 30, 240, 230]
    assert (cut[..., 0] == BODY).all()


def test_narrow_border_and_nearly_empty_image_are_not_cropped(store: Any) -> None:
    narrow, empty = np.pad(BODY, 5), np.zeros((200, 200), np.uint8)
    empty[100:110, 100:110] = 200

    assert framed(read(store(narrow).path), narrow)[1] == {}
    assert framed(read(store(empty).path), empty)[1] == {}


def test_ultrasound_is_cropped_to_its_regions(store: Any) -> None:
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 20, 50
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 179, 199

    image = images_of([store(BODY, Modality="US", SequenceOfUltrasoundRegions=[region])]).images[0]

    assert image.transform["crop"] == [50, 20, 200, 180]
    assert image.pixels.shape == (150, 160, 3)


def test_very_large_image_is_reduced(store: Any) -> None:
    large = np.repeat(np.repeat(BODY, 30, axis=0), 30, axis=1)

    image, _ = framed(read(store(BODY).path), large)

    assert MAX_PIXELS * 0.99 < image.shape[0] * image.shape[1] <= MAX_PIXELS


@pytest.mark.parametrize(
    ("levels", "warnings"),
    [
        (BODY, []),
        (np.full((200, 200), 77, np.uint8), [quality.BLANK]),
        (np.where(BODY > 60, 255, 0).astype(np.uint8), [quality.SATURATED]),
        (np.random.default_rng(1).integers(0, 256, (200, 200), np.uint8), [quality.NOISE]),
        (BODY[:50, :50], [quality.SMALL]),
        (BODY[:3, :3], [quality.TINY]),
    ],
)
def test_warnings_describe_images_without_information(levels: np.ndarray[Any, Any], warnings: list[str]) -> None:
    assert quality.warnings_about(levels) == warnings


def test_bright_spot_on_black_gets_no_warning() -> None:
    y, x = np.mgrid[0:256, 0:256]
    scan = (250 * np.exp(-((x - 90) ** 2 + (y - 140) ** 2) / 200)).astype(np.uint8)

    assert quality.warnings_about(scan) == []
