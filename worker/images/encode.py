"""Encode images for storage: lossless PNG, fast, with one channel if the image is grayscale."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from db.reports.versions import Shown

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from worker.images.study_images import StudyImages

#: Level of zlib, and matches of distance one only. The PNG filter has removed what a longer search would find in a
#: radiograph: the default level takes 5 times as long and its files are no smaller (docs/images.md).
_LEVEL, _STRATEGY = 1, zlib.Z_RLE


def encoded(images: StudyImages, on_progress: Callable[[], None]) -> list[Shown]:
    """Return the images of a study as they are stored; *on_progress* is called after each."""
    shown = []
    for part in images.parts:
        for image in part.images:
            reason = f"{part.name}, {image.reason}" if len(images.parts) > 1 else image.reason
            content, warnings = png(image.pixels), list(image.warnings)
            shown.append(Shown(content, image.sop_instance_uid, image.frame, reason, image.transform, warnings))
            on_progress()
    return shown


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return the PNG of an image, uint8 [rows, columns, 3]; one channel if the three are equal."""
    encoded = io.BytesIO()
    image = Image.fromarray(pixels[..., 0].copy() if _is_grayscale(pixels) else pixels)
    image.save(encoded, format="PNG", compress_level=_LEVEL, compress_type=_STRATEGY)
    return encoded.getvalue()


def _is_grayscale(pixels: npt.NDArray[np.uint8]) -> bool:
    red = pixels[..., 0]
    return all(np.array_equal(red, pixels[..., channel]) for channel in (1, 2))
