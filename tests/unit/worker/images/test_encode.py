"""Images are stored as PNG without loss."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from worker.images import encode

if TYPE_CHECKING:
    import numpy.typing as npt

RANDOM = np.random.default_rng(7)
GREY = np.repeat(RANDOM.integers(0, 256, (40, 60, 1), np.uint8), 3, axis=2)
COLOUR = RANDOM.integers(0, 256, (40, 60, 3), np.uint8)
NEARLY_GREY = GREY.copy()
NEARLY_GREY[-1, -1, 2] ^= 1


@pytest.mark.parametrize(("pixels", "mode"), [(GREY, "L"), (COLOUR, "RGB"), (NEARLY_GREY, "RGB")])
def test_image_is_stored_without_loss_and_with_one_channel_if_it_is_grayscale(
    pixels: npt.NDArray[np.uint8], mode: str
) -> None:
    stored = Image.open(io.BytesIO(encode.png(pixels)))

    assert (stored.format, stored.mode) == ("PNG", mode)
    assert np.array_equal(np.asarray(stored.convert("RGB")), pixels)


def test_smooth_radiograph_takes_no_more_bytes_than_with_a_thorough_search() -> None:
    y, x = np.mgrid[:600, :800]
    smooth = 125 + 75 * np.cos(x / 40) * np.sin(y / 60) + RANDOM.normal(0, 2, x.shape)
    pixels: Any = np.repeat(smooth.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    thorough = io.BytesIO()
    Image.fromarray(pixels[..., 0].copy()).save(thorough, format="PNG")

    assert len(encode.png(pixels)) < 1.05 * len(thorough.getvalue())
