"""Stored values to grey levels: modality LUT, VOI LUT or window, MONOCHROME1, padding (PS3.3 C.11.1, C.11.2, C.7.6.3).

The view is chosen by a sample of the pixels. Up to 16 bits it is then computed once for every value a sample can hold,
and each pixel is one look into that table: a radiograph of 7.5 million pixels costs 65 536 evaluations. Wider samples
are computed a few rows at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.pixels.processing import apply_windowing

from worker.images.decode.samples import each_looked_up, in_strips, stored_values
from worker.images.errors import Unreadable
from worker.images.render.lookup_tables import table_in
from worker.images.render.windows import LARGEST, Window, header_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from worker.images.decode.frames import Frame
    from worker.images.decode.header import Header

    Values = npt.NDArray[Any]
    Turn = Callable[[Values], Values]
    Steps = dict[str, Any]

#: Share of the pixels below and above a window made from the pixels themselves, in percent.
_TAILS = (0.5, 99.5)
#: Pixels looked at to choose a view; more do not move it.
_SAMPLE = 1 << 18
#: A header's window that shows less than this share of the pixels between black and white hides the image.
_VISIBLE = 0.001


@dataclass(frozen=True, slots=True)
class Grey:
    """Grey levels, uint8 [rows, columns], and the steps that made them, fit for JSON."""

    levels: npt.NDArray[np.uint8]
    steps: dict[str, Any]


def to_grey(header: Header, frame: Frame, window: Window | None = None) -> Grey:
    """Turn a decoded grayscale frame into what a display would show, with *window* or the header's own."""
    real, steps = _modality(header)
    if window is not None:
        view, shown = _windowed(window)
    else:
        view, shown = _displayed(header, frame, real)
    inverted = frame.photometric == "MONOCHROME1"
    padding = _padding(header)

    def levels_of(samples: Values) -> Values:
        values = stored_values(samples, frame)
        levels = view(real(values))
        # Cut off, not rounded, as DCMTK does: both are within one level of the formula.
        grey: Values = np.clip(255 - levels if inverted else levels, 0, 255).astype(np.uint8)
        if padding:
            grey[(values >= padding[0]) & (values <= padding[1])] = 0
        return grey

    if frame.samples.dtype.itemsize > 2:  # noqa: PLR2004 - 16 bits have 65 536 values
        levels = in_strips(levels_of, frame.samples)
    else:
        levels = each_looked_up(levels_of, frame.samples)
    steps |= shown
    if inverted:
        steps["inverted"] = "MONOCHROME1"
    if padding:
        steps["padding"] = "black"
    return Grey(levels, steps)


def _modality(header: Header) -> tuple[Turn, Steps]:
    """Stored values to what they stand for; as they are where the header says nothing that makes sense."""
    if "ModalityLUTSequence" in header:
        try:
            item = next(iter(header.items("ModalityLUTSequence")), header)
            table = table_in(item, "LUTDescriptor", "LUTData", signed=header.integer("PixelRepresentation") == 1)
        except Unreadable:
            return _unchanged, {"modality": "lookup table not usable"}
        return table.of, {}
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept") or 0.0
    if not slope or max(abs(slope), abs(intercept)) > LARGEST:
        return _unchanged, {}
    return lambda values: values * slope + intercept, {}


def _unchanged(values: Values) -> Values:
    return values


def _padding(header: Header) -> tuple[int, int] | None:
    """The values that are no pixels at all, from and to (PS3.3 C.7.5.1.1.2)."""
    limits = [header.padding(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    known = [limit for limit in limits if limit is not None]
    # On a slide the padding is the white of the glass, and stays white.
    if not known or limits[0] is None or header.text("Modality") == "SM":
        return None
    return min(known), max(known)


def _displayed(header: Header, frame: Frame, real: Turn) -> tuple[Turn, Steps]:
    """Real values to levels from 0 to 255: the header's VOI where it shows something, else made from the pixels."""
    if frame.stored == 1:
        return lambda values: (values != 0) * 255.0, {"voi": "one bit"}
    seen = _seen(header, frame)
    for view, steps in _views(header, frame, real):
        if seen.size == 0 or _shows(view(real(seen))):
            return view, steps
    if frame.stored == 8 and real is _unchanged:  # noqa: PLR2004 - bits
        return lambda values: values.astype(np.float64), {"voi": "as stored", **Window(128, 256).recorded()}
    low, high = np.percentile(real(seen), _TAILS) if seen.size else (0.0, 0.0)
    view, steps = _windowed(Window.between(float(low), float(high)))
    return view, {**steps, "voi": f"percentiles {_TAILS[0]} to {_TAILS[1]}"}


def _seen(header: Header, frame: Frame) -> Values:
    """The stored values of a regular sample of the pixels, padding apart."""
    step = max(1, int((frame.samples.size / _SAMPLE) ** 0.5))
    values = stored_values(frame.samples[::step, ::step].ravel(), frame)
    padding = _padding(header)
    return values[(values < padding[0]) | (values > padding[1])] if padding else values


def _views(header: Header, frame: Frame, real: Turn) -> Iterator[tuple[Turn, Steps]]:
    """What the header offers, in its order: VOI LUTs before windows, as PS3.3 C.11.2 lets an application choose."""
    for item in header.items("VOILUTSequence")[:1]:
        try:
            yield _voi_lut(item, negative=_reaches_below_zero(frame, real))
        except Unreadable:
            continue  # the header may have a window as well
    for window in header_windows(header):
        yield _windowed(window)


def _reaches_below_zero(frame: Frame, real: Turn) -> bool:
    """Whether the modality LUT can give negative values: only then is a VOI LUT's first value signed (C.11.2.1.1)."""
    half = 1 << (frame.stored - 1)
    ends = (-half, half - 1) if frame.samples.dtype.kind == "i" else (0, 2 * half - 1)
    return bool(real(np.array(ends, np.int64)).min() < 0)


def _voi_lut(item: Header, *, negative: bool) -> tuple[Turn, Steps]:
    table = table_in(item, "LUTDescriptor", "LUTData", signed=negative)
    white = 2.0**table.bits - 1

    def view(values: Values) -> Values:
        levels: Values = table.of(np.rint(values)) * (255.0 / white)
        return levels

    return view, {"voi": "lookup table"}


def _windowed(window: Window) -> tuple[Turn, Steps]:
    voi = window.as_voi()

    def view(values: Values) -> Values:
        with np.errstate(over="ignore"):  # far below a sigmoid, which is 0 there
            return apply_windowing(values, voi)

    return view, {"voi": "window", **window.recorded()}


def _shows(levels: Values) -> bool:
    return bool(np.mean((levels > 0) & (levels < 255)) >= _VISIBLE)  # noqa: PLR2004 - white
