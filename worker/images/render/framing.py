"""From a rendered frame to the image handed on: borders cut, pixels made square, size bounded, three channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.images.decode.header import Header

    Pixels = npt.NDArray[np.uint8]

#: The largest image handed on, in pixels; the model looks at about 2 million, and 8 of these are 400 MB.
MAX_PIXELS = 16_000_000
#: A border narrower than this share of the side is left where it is.
_BORDER = 0.05
#: A border is cut only while at least this share of the image's area remains: beyond, it is no border.
_KEPT = 0.2
#: Pixels less oblong than this count as square.
_OBLONG = 0.02
#: Levels above its corner a border may reach: compression ripples.
_RIPPLE = 4


def framed(header: Header, levels: Pixels) -> tuple[Pixels, dict[str, Any]]:
    """The image uint8 [rows, columns, 3] of a rendered frame, and what was done to its geometry, fit for JSON.

    *crop* is [top, left, bottom, right] in the frame's pixels, bottom and right exclusive.
    """
    steps: dict[str, Any] = {}
    box = _regions(header, levels) or without_border(levels)
    if box:
        levels, steps["crop"] = levels[box[0] : box[2], box[1] : box[3]], list(box)
    rows, columns = levels.shape[:2]
    target = _bounded(*_squared(header, rows, columns))
    if target != (rows, columns):
        levels = _resized(levels, target)
        steps["resized"] = list(target)
    return _three_channels(levels), steps


def _regions(header: Header, levels: Pixels) -> tuple[int, int, int, int] | None:
    """The box around the calibrated regions of an ultrasound image: outside it are names and settings.

    PS3.3 C.8.5.5. None where nothing worth cutting is outside.
    """
    boxes = [
        [item.integer(f"RegionLocation{corner}") for corner in ("MinY0", "MinX0", "MaxY1", "MaxX1")]
        for item in header.items("SequenceOfUltrasoundRegions")
    ]
    rows, columns = levels.shape[:2]
    whole = [box for box in boxes if 0 <= box[0] < box[2] <= rows and 0 <= box[1] < box[3] <= columns]
    if not whole:
        return None
    tops, lefts, bottoms, rights = zip(*whole, strict=True)
    return _worth_it((min(tops), min(lefts), min(rows, max(bottoms) + 1), min(columns, max(rights) + 1)), levels)


def without_border(levels: Pixels) -> tuple[int, int, int, int] | None:
    """The box [top, left, bottom, right] inside a black border: collimation, or a screen's frame; None without one."""
    grey = levels if levels.ndim == 2 else levels.max(axis=2)  # noqa: PLR2004 - channels
    rows = np.flatnonzero(grey.max(axis=1) > _RIPPLE)
    columns = np.flatnonzero(grey.max(axis=0) > _RIPPLE)
    if not rows.size or not columns.size:
        return None
    return _worth_it((int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1), levels)


def _worth_it(box: tuple[int, int, int, int], levels: Pixels) -> tuple[int, int, int, int] | None:
    rows, columns = levels.shape[:2]
    top, left, bottom, right = box
    cut = max(top / rows, 1 - bottom / rows, left / columns, 1 - right / columns)
    kept = (bottom - top) * (right - left) / (rows * columns)
    return box if cut >= _BORDER and kept >= _KEPT else None


def _squared(header: Header, rows: int, columns: int) -> tuple[int, int]:
    """The size at which a pixel is as high as it is wide (PS3.3 C.7.6.3.1.7); the longer side grows."""
    pairs = map(header.numbers, ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"))
    # Vertical, horizontal; some write zeros into what they do not know.
    known = (pair for pair in pairs if len(pair) == 2 and all(0 < part < 1e6 for part in pair))  # noqa: PLR2004
    vertical, horizontal = next(known, (1.0, 1.0))
    ratio = vertical / horizontal
    if abs(ratio - 1) < _OBLONG or not 0.1 < ratio < 10:  # noqa: PLR2004 - beyond it is a mistake
        return rows, columns
    return (round(rows * ratio), columns) if ratio > 1 else (rows, round(columns / ratio))


def _bounded(rows: int, columns: int) -> tuple[int, int]:
    factor = min(1.0, (MAX_PIXELS / (rows * columns)) ** 0.5)
    return max(1, int(rows * factor)), max(1, int(columns * factor))


def _resized(levels: Pixels, target: tuple[int, int]) -> Pixels:
    """A channel at a time: Pillow holds three as four, and copies them; one it takes as it lies."""
    resized = np.empty((*target, *levels.shape[2:]), np.uint8)
    for channel in np.ndindex(*levels.shape[2:]):
        image = Image.fromarray(np.ascontiguousarray(levels[(..., *channel)]))
        resized[(..., *channel)] = image.resize((target[1], target[0]), Image.Resampling.BOX, reducing_gap=2.0)
    return resized


def _three_channels(levels: Pixels) -> Pixels:
    if levels.ndim == 3:  # noqa: PLR2004 - channels
        return np.ascontiguousarray(levels)
    image = np.empty((*levels.shape, 3), np.uint8)
    for channel in range(3):  # a third of the time of np.repeat
        image[..., channel] = levels
    return image
