"""Stored values to grey levels: modality LUT, VOI LUT or window, MONOCHROME1, padding (PS3.3 C.11.1, C.11.2, C.7.6.3).

The whole transform is a lookup table: it is computed once for every value a sample can hold, by pydicom's functions,
and each pixel is one look into it. A radiograph of 7.5 million pixels costs 65 536 evaluations instead of 7.5 million.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

from worker.images.errors import Unreadable
from worker.images.windows import Window, header_windows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from worker.images.decode import Frame
    from worker.images.header import Header

    Levels = npt.NDArray[np.float64]

#: Share of the pixels below and above a window made from the pixels themselves, in percent.
_TAILS = (0.5, 99.5)
#: Pixels looked at for the percentiles; more do not move them.
_SAMPLE = 1 << 18
#: Rows turned at a time: numpy widens indices to 8 bytes each.
_STRIP = 256
#: A header's window that shows less than this share of the pixels between black and white hides the picture.
_VISIBLE = 0.001


@dataclass(frozen=True, slots=True)
class Grey:
    """Grey levels, uint8 [rows, columns], and the steps that made them, fit for JSON."""

    levels: npt.NDArray[np.uint8]
    steps: dict[str, Any]


def to_grey(header: Header, frame: Frame, window: Window | None = None) -> Grey:
    """Turn a decoded grayscale frame into what a display would show, with *window* or the header's own.

    Raises Unreadable where the lookup tables of the header make no sense.
    """
    index, patterns = _indices(frame)
    values = _stored(patterns, frame)
    real = _modality(header, values)
    padding = _padding(header, values)
    if window is None:
        shown, steps = _displayed(header, frame, values, real, _occurring(index, padding))
    else:
        shown, steps = _windowed(real, window)
    if frame.photometric == "MONOCHROME1":
        shown, steps = 255 - shown, {**steps, "inverted": "MONOCHROME1"}
    # Cut off, not rounded, as DCMTK does: both are within one level of the formula.
    table = np.clip(shown, 0, 255).astype(np.uint8)
    if padding.any():
        table[padding] = 0
        steps["padding"] = "black"
    return Grey(_looked_up(table, index), steps)


def _indices(frame: Frame) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Each pixel's place in the table, and the sample value every place of the table stands for."""
    samples = frame.samples
    if samples.dtype.itemsize <= 2:  # noqa: PLR2004 - 16 bits have 65 536 values
        unsigned = samples.view(samples.dtype.str.replace("i", "u"))
        every = np.arange(256**samples.dtype.itemsize, dtype=f"u{samples.dtype.itemsize}")
        return unsigned, every.view(f"{samples.dtype.kind}{samples.dtype.itemsize}")
    # 32 bits: the values that occur. There are at most as many as pixels.
    every, index = np.unique(samples, return_inverse=True)
    return index.reshape(samples.shape), every


def _stored(patterns: npt.NDArray[Any], frame: Frame) -> npt.NDArray[Any]:
    """Remove the bits that are not pixel and extend the sign (PS3.5 8.1.1)."""
    if not frame.left and not frame.right:
        return patterns
    stored: npt.NDArray[Any] = np.right_shift(np.left_shift(patterns, frame.left), frame.right)
    return stored


def _modality(header: Header, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not header.number("RescaleSlope") and "ModalityLUTSequence" not in header:
        return values
    try:
        if "ModalityLUTSequence" in header:
            # pydicom subtracts in the type given; wide integers do not wrap.
            return apply_modality_lut(values.astype(np.int64), header.elements("ModalityLUTSequence"))
        return apply_modality_lut(values, header.elements("RescaleSlope", "RescaleIntercept"))
    except (ValueError, KeyError, IndexError, AttributeError, TypeError, RecursionError) as error:
        raise Unreadable("malformed", "the modality lookup table makes no sense") from error


def _padding(header: Header, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which values are no pixels at all (PS3.3 C.7.5.1.1.2)."""
    limits = [header.padding(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    known = [limit for limit in limits if limit is not None]
    # On a slide the padding is the white of the glass, and stays white.
    if not known or limits[0] is None or header.text("Modality") == "SM":
        return np.zeros(values.shape, np.bool_)
    inside: npt.NDArray[np.bool_] = (values >= min(known)) & (values <= max(known))
    return inside


def _displayed(
    header: Header, frame: Frame, values: npt.NDArray[Any], real: npt.NDArray[Any], occurring: npt.NDArray[Any]
) -> tuple[Levels, dict[str, Any]]:
    """Levels from 0 to 255 for every value: the header's VOI where it shows something, else made from the pixels."""
    if frame.stored == 1:
        return real * 255.0, {"voi": "one bit"}
    for levels, steps in _views(header, real):
        if occurring.size == 0 or _shows(levels[occurring]):
            return levels, steps
    if frame.stored == 8 and real is values:  # noqa: PLR2004 - bits
        return values.astype(np.float64), {"voi": "as stored", **Window(128, 256).recorded()}
    low, high = np.percentile(real[occurring], _TAILS) if occurring.size else (0.0, 0.0)
    levels, steps = _windowed(real, Window.between(float(low), float(high)))
    return levels, {**steps, "voi": f"percentiles {_TAILS[0]} to {_TAILS[1]}"}


def _views(header: Header, real: npt.NDArray[Any]) -> Iterator[tuple[Levels, dict[str, Any]]]:
    """What the header offers, in its order: VOI LUTs before windows, as PS3.3 C.11.2 lets an application choose."""
    if "VOILUTSequence" in header:
        yield _voi_lut(header, real), {"voi": "lookup table"}
    for window in header_windows(header):
        yield _windowed(real, window)


def _voi_lut(header: Header, real: npt.NDArray[Any]) -> Levels:
    try:
        dataset = header.elements("VOILUTSequence")
        depth = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        looked_up = apply_voi(np.rint(real).astype(np.int64), dataset)
    except (ValueError, KeyError, IndexError, AttributeError, TypeError, RecursionError, NotImplementedError) as error:
        raise Unreadable("malformed", "the VOI lookup table makes no sense") from error
    levels: Levels = looked_up * (255.0 / (2**depth - 1))
    return levels


def _windowed(real: npt.NDArray[Any], window: Window) -> tuple[Levels, dict[str, Any]]:
    with np.errstate(over="ignore"):  # far below a sigmoid, which is 0 there
        levels: Levels = apply_windowing(real, window.as_voi())
    return levels, {"voi": "window", **window.recorded()}


def _shows(levels: Levels) -> bool:
    return bool(np.mean((levels > 0) & (levels < 255)) >= _VISIBLE)  # noqa: PLR2004 - white


def _occurring(index: npt.NDArray[Any], padding: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """The table places of a regular sample of the pixels, padding apart."""
    step = max(1, int((index.size / _SAMPLE) ** 0.5))
    seen = index[::step, ::step].ravel().astype(np.intp)
    return seen[~padding[seen]]


def _looked_up(table: npt.NDArray[np.uint8], index: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    levels = np.empty(index.shape, np.uint8)
    for start in range(0, len(index), _STRIP):
        np.take(table, index[start : start + _STRIP], out=levels[start : start + _STRIP])
    return levels
