"""Frame a rendered image for the model: crop borders, make pixels square, bound the size, three channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from worker.images.decode.header import Header, Keyword
    from worker.images.render.windows import Window

    Pixels = npt.NDArray[np.uint8]
    #: Top, left, bottom and right in pixels, bottom and right exclusive.
    Box = tuple[int, int, int, int]

#: Pixels of an image: a radiograph of 3000 x 2500 keeps its size. The model uses about 2 million; each image is stored
#: with its report, as 0.3 to 0.5 bytes a pixel, and 8 images of this size take 200 MB of memory.
MAX_PIXELS = 8_000_000
#: Share of the side below which a border is not cropped.
_MIN_BORDER = 0.05
#: Share of the area that must remain after cropping: otherwise it was not a border.
_MIN_REMAINING = 0.2
#: Deviation of the pixel aspect ratio from 1 below which pixels count as square.
_MIN_OBLONG = 0.02
#: Highest level of a black border: compression leaves ripples.
_MAX_BLACK = 4
#: Hounsfield units below which there is air outside the body; air has -1000.
_AIR = -900
#: Top, left, bottom and right of an ultrasound region, bottom and right inclusive.
_CORNERS: tuple[Keyword, ...] = (
    "RegionLocationMinY0", "RegionLocationMinX0", "RegionLocationMaxY1", "RegionLocationMaxX1",
)  # fmt: skip


def framed(header: Header, levels: Pixels, boxes: Sequence[Box] | None = None) -> tuple[Pixels, dict[str, Any]]:
    """Return the image uint8 [rows, columns, 3] of a rendered frame, and the steps of its geometry, for JSON.

    *boxes* are those of all images of its stack, which are cropped alike to show the same scale; None for a single
    image. *crop* is [top, left, bottom, right] in the frame's pixels, bottom and right exclusive.
    """
    steps: dict[str, Any] = {}
    if boxes is None:
        own = content_box(header, levels)
        boxes = [own] if own else []
    if box := _worth_cropping(boxes, levels):
        levels, steps["crop"] = levels[box[0] : box[2], box[1] : box[3]], list(box)
    rows, columns = levels.shape[:2]
    target = _bounded(*_squared(header, rows, columns))
    if target != (rows, columns):
        levels = _resized(levels, target)
        steps["resized"] = list(target)
    return _three_channels(levels), steps


def content_box(header: Header, levels: Pixels, window: Window | None = None) -> Box | None:
    """Return the box [top, left, bottom, right] around the content of an image; None if it is black.

    In a *window* in Hounsfield units, air is no content: a lung window shows it grey.
    """
    regions = _regions(header, levels)
    black = _MAX_BLACK if window is None else max(_MAX_BLACK, window.level_of(_AIR))
    return _worth_cropping([regions] if regions else [], levels) or _brighter(levels, black)


def without_border(levels: Pixels) -> Box | None:
    """Return the box [top, left, bottom, right] inside a black border of collimation or a screen; None without one."""
    box = _brighter(levels, _MAX_BLACK)
    return _worth_cropping([box] if box else [], levels)


def _regions(header: Header, levels: Pixels) -> Box | None:
    """Return the box around the calibrated regions of an ultrasound image: outside are names and settings.

    PS3.3 C.8.5.5.
    """
    boxes = [[item.integer(corner) for corner in _CORNERS] for item in header.items("SequenceOfUltrasoundRegions")]
    rows, columns = levels.shape[:2]
    valid = [box for box in boxes if 0 <= box[0] < box[2] <= rows and 0 <= box[1] < box[3] <= columns]
    if not valid:
        return None
    tops, lefts, bottoms, rights = zip(*valid, strict=True)
    return min(tops), min(lefts), min(rows, max(bottoms) + 1), min(columns, max(rights) + 1)


def _brighter(levels: Pixels, black: float) -> Box | None:
    grey = levels if levels.ndim == 2 else levels.max(axis=2)  # noqa: PLR2004 - channels
    rows = np.flatnonzero(grey.max(axis=1) > black)
    columns = np.flatnonzero(grey.max(axis=0) > black)
    if not rows.size or not columns.size:
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _worth_cropping(boxes: Sequence[Box], levels: Pixels) -> Box | None:
    """Return the box around all *boxes*; None if there is too little outside to crop, or too little inside."""
    if not boxes:
        return None
    rows, columns = levels.shape[:2]
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    top, left, bottom, right = min(tops), min(lefts), max(bottoms), max(rights)
    cut = max(top / rows, 1 - bottom / rows, left / columns, 1 - right / columns)
    remaining = (bottom - top) * (right - left) / (rows * columns)
    return (top, left, bottom, right) if cut >= _MIN_BORDER and remaining >= _MIN_REMAINING else None


def _squared(header: Header, rows: int, columns: int) -> tuple[int, int]:
    """Return the size at which pixels are square; the longer side grows."""
    ratio = pixel_aspect(header)
    if ratio == 1:
        return rows, columns
    return (round(rows * ratio), columns) if ratio > 1 else (rows, round(columns / ratio))


def pixel_aspect(header: Header) -> float:
    """Return the height of a pixel divided by its width (PS3.3 C.7.6.3.1.7); 1 if unknown, nearly 1 or a mistake."""
    keywords: tuple[Keyword, ...] = ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio")
    pairs = map(header.numbers, keywords)
    # Vertical, horizontal; some devices write zeros for unknown values.
    known = (pair for pair in pairs if len(pair) == 2 and all(0 < part < 1e6 for part in pair))  # noqa: PLR2004
    vertical, horizontal = next(known, (1.0, 1.0))
    ratio = vertical / horizontal
    return 1.0 if abs(ratio - 1) < _MIN_OBLONG or not 0.1 < ratio < 10 else ratio  # noqa: PLR2004 - a mistake beyond


def _bounded(rows: int, columns: int) -> tuple[int, int]:
    factor = min(1.0, (MAX_PIXELS / (rows * columns)) ** 0.5)
    return max(1, int(rows * factor)), max(1, int(columns * factor))


def _resized(levels: Pixels, target: tuple[int, int]) -> Pixels:
    """Resize one channel at a time: Pillow copies three channels to four, but uses one in place."""
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
