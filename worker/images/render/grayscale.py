"""Render grayscale: modality LUT, VOI LUT or window, MONOCHROME1, padding (PS3.3 C.11.1, C.11.2, C.7.6.3).

The VOI is selected on a subset of the pixels. Up to 16 bits it is then computed once for every possible sample, and
each pixel is looked up: a radiograph of 7.5 million pixels costs 65 536 evaluations. Wider samples are computed in
strips.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.pixels.processing import apply_windowing

from worker.images.decode.samples import apply, stored_values
from worker.images.errors import Unreadable
from worker.images.render.lookup_tables import table_in
from worker.images.render.units import rescale_fault
from worker.images.render.windows import Window, header_windows

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from worker.images.decode.header import Header
    from worker.images.decode.samples import Frame
    from worker.images.render.lookup_tables import Table

    Values = npt.NDArray[Any]
    Function = Callable[[Values], Values]
    Steps = dict[str, Any]

#: Percentiles of the pixels that become black and white if the header has no usable VOI.
_PERCENTILES = (0.5, 99.5)
#: Step of an image shown between them.
PERCENTILES = f"percentiles {_PERCENTILES[0]} to {_PERCENTILES[1]}"
#: Pixels on which the VOI is selected; more do not change it.
_MAX_SAMPLE = 1 << 18
#: Levels of an image below which its window is too wide: 4 bits of 8.
_MIN_RANGE = 17
#: Part of the range of the values that lossy coding changes a padded one at most.
_PARTS_OF_RANGE = 32
#: Values beside padding, for each value near it, above which the image is darker or brighter than its padding.
_MAX_BESIDE = 0.02
#: Share of the pixels between black and white below which a header's window hides the image.
_MIN_VISIBLE = 0.001


def to_grey(header: Header, frame: Frame, window: Window | None = None) -> tuple[npt.NDArray[np.uint8], Steps]:
    """Render a decoded grayscale frame as a display would, with *window* or the header's own VOI.

    Returns levels, uint8 [rows, columns], and the steps that produced them, for JSON.
    """
    levels_of, steps = grey_function(header, frame, window)
    return apply(levels_of, frame.samples), steps


def grey_function(header: Header, frame: Frame, window: Window | None = None) -> tuple[Function, Steps]:
    """Return the function from the frame's samples to levels, 0 to 255, and its steps; `to_grey` applies it."""
    rescale, steps = modality_lut(header)
    # Windows of a device that declares more bits than its Modality LUT holds are those of the declared bits.
    min_range = _MIN_RANGE if "modality_bits" in steps else 0
    voi, voi_steps = _windowed(window) if window else _selected_voi(header, frame, rescale, min_range)
    inverted, padding = frame.photometric == "MONOCHROME1", padding_of(header, frame)

    def levels_of(samples: Values) -> Values:
        values = stored_values(samples, frame)
        levels = voi(rescale(values))
        # Truncated, not rounded, as in DCMTK: both are within one level of the formula.
        grey: Values = np.clip(255 - levels if inverted else levels, 0, 255).astype(np.uint8)
        if padding:
            grey[(values >= padding[0]) & (values <= padding[1])] = 0
        return grey

    steps |= voi_steps
    if inverted:
        steps["inverted"] = "MONOCHROME1"
    if padding:
        steps["padding"] = "black"
    return levels_of, steps


def modality_lut(header: Header) -> tuple[Function, Steps]:
    """Return the modality LUT or rescale; the identity if the header has none that is valid."""
    if "ModalityLUTSequence" in header:
        try:
            item = next(iter(header.items("ModalityLUTSequence")), header)
            table = table_in(item, "LUTDescriptor", "LUTData", signed=header.integer("PixelRepresentation") == 1)
        except Unreadable as problem:
            return _unchanged, {"modality": f"lookup table not usable: {problem.detail}"}
        return table.look_up, _narrow("modality_bits", table)
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    # Half a pair would shift or scale the values into a unit that they do not have.
    if slope is None or intercept is None or rescale_fault(header):
        return _unchanged, {}
    return lambda values: values * slope + intercept, {}


def _narrow(step: str, table: Table) -> Steps:
    """Return the step of a table whose entries use fewer bits than declared; empty for any other."""
    return {step: f"{table.held} of {table.bits}"} if table.held < table.bits else {}


def _unchanged(values: Values) -> Values:
    return values


def padding_of(header: Header, frame: Frame) -> tuple[int, int] | None:
    """Return the lowest and highest stored value that marks padding (PS3.3 C.7.5.1.1.2); None if there is none."""
    limits = [header.padding(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    known = [limit for limit in limits if limit is not None]
    # On a slide padding is the white of the glass, and stays white.
    if not known or limits[0] is None or header.text("Modality") == "SM":
        return None
    low, high = min(known), max(known)
    error = frame.error
    if not error and header.text("LossyImageCompression") == "01":
        # Decompressed by the sender, or coded without loss again.
        error = 1 << max(1, frame.stored - 5)
    tolerance = _tolerance(frame, low, high, error) if error else 0
    return low - tolerance, high + tolerance


def _tolerance(frame: Frame, low: int, high: int, error: int) -> int:
    """Return the distance from padding, at most *error*, within which values are padding that lossy coding changed.

    The next values are rare: otherwise an image goes on beside its padding.
    """
    values = _subset(frame).astype(np.int64)
    distance = np.maximum(low - values, values - high)
    # The declared bits may be more than those in use.
    tolerance = min(error, int(np.ptp(values)) // _PARTS_OF_RANGE) if values.size else 0
    while tolerance:
        near, wider = (np.count_nonzero(distance <= reach) for reach in (tolerance, 2 * tolerance))
        if wider - near <= _MAX_BESIDE * near:
            break
        tolerance //= 2
    return tolerance


def _selected_voi(header: Header, frame: Frame, rescale: Function, min_range: int) -> tuple[Function, Steps]:
    """Return the VOI, with output 0 to 255: the header's first that shows the image, else one from the pixels.

    One that uses fewer than *min_range* levels does not show it.
    """
    if frame.stored == 1:
        return lambda values: (values != 0) * 255.0, {"voi": "one bit"}
    sample = _sample(header, frame)
    vois, fault = _header_vois(header, frame, rescale)
    for voi, steps in vois:
        if sample.size == 0 or _shows_image(voi(rescale(sample)), min_range):
            return voi, {**steps, **fault}
    if frame.stored == 8 and rescale is _unchanged:  # noqa: PLR2004 - bits
        return lambda values: values.astype(np.float64), {"voi": "as stored", **Window(128, 256).recorded(), **fault}
    low, high = np.percentile(rescale(sample), _PERCENTILES) if sample.size else (0.0, 0.0)
    voi, steps = _windowed(replace(Window.between(float(low), float(high)), source=PERCENTILES))
    return voi, {**steps, **fault}


def _sample(header: Header, frame: Frame) -> Values:
    """Return the stored values of a regular subset of the pixels, without padding."""
    values, padding = _subset(frame), padding_of(header, frame)
    return values[(values < padding[0]) | (values > padding[1])] if padding else values


def _subset(frame: Frame) -> Values:
    step = max(1, int((frame.samples.size / _MAX_SAMPLE) ** 0.5))
    return stored_values(frame.samples[::step, ::step].ravel(), frame)


def _header_vois(header: Header, frame: Frame, rescale: Function) -> tuple[list[tuple[Function, Steps]], Steps]:
    """Return the header's VOI LUT and windows, and the fault of a table that cannot be used.

    PS3.3 C.11.2 leaves the choice to the application.
    """
    vois, fault = [], {}
    for item in header.items("VOILUTSequence")[:1]:
        try:
            vois.append(_voi_lut(item, negative=_has_negative_output(frame, rescale)))
        except Unreadable as problem:  # the header may have a window as well
            fault = {"voi_lut": f"not usable: {problem.detail}"}
    return vois + [_windowed(window) for window in header_windows(header)], fault


def _has_negative_output(frame: Frame, rescale: Function) -> bool:
    """Return whether the modality LUT can give negative values: then a VOI LUT's first value is signed (C.11.2.1.1)."""
    half = 1 << (frame.stored - 1)
    ends = (-half, half - 1) if frame.samples.dtype.kind == "i" else (0, 2 * half - 1)
    return bool(rescale(np.array(ends, np.int64)).min() < 0)


def _voi_lut(item: Header, *, negative: bool) -> tuple[Function, Steps]:
    table = table_in(item, "LUTDescriptor", "LUTData", signed=negative)
    # Some devices declare the bits of a word, not those of the entries.
    white = 2.0**table.held - 1

    def voi(values: Values) -> Values:
        return table.look_up(np.rint(values)) * (255.0 / white)

    return voi, {"voi": "lookup table", **_narrow("voi_bits", table)}


def _windowed(window: Window) -> tuple[Function, Steps]:
    module = window.as_voi()

    def voi(values: Values) -> Values:
        with np.errstate(over="ignore"):  # far below the centre of a sigmoid, where it is 0
            return apply_windowing(values, module)

    return voi, {"voi": window.source, **window.recorded()}


def _shows_image(levels: Values, min_range: int) -> bool:
    visible = np.mean((levels > 0) & (levels < 255)) >= _MIN_VISIBLE  # noqa: PLR2004 - white
    return bool(visible and np.ptp(levels) >= min_range)
