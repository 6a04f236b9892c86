"""Samples of a decoded frame, and functions of every sample at the cost of a few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Function = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]

#: Samples processed at a time: numpy widens indices and real values to 8 bytes each.
_STRIP = 1 << 18


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame: *samples* is [rows, columns] or [rows, columns, 3], integers as decoded.

    *photometric* describes the decoded samples; decoding may have changed it. A stored value is its sample shifted left
    by *left* and then right by *right* bits, which removes bits that are not pixel and extends the sign.
    """

    samples: npt.NDArray[Any]
    photometric: str
    stored: int
    left: int = 0
    right: int = 0
    #: Decoder of the codestream; empty for native samples.
    decoder: str = ""
    #: Largest error of a stored value by lossy compression, partly estimated.
    error: int = 0
    #: Contradiction of the header's colour space to the codestream; empty if there is none.
    colour_problem: str = ""


def stored_values(samples: npt.NDArray[Any], frame: Frame) -> npt.NDArray[Any]:
    """Return the stored values of *samples*: unused bits removed, sign extended (PS3.5 8.1.1)."""
    if not frame.left and not frame.right:
        return samples
    stored: npt.NDArray[Any] = np.right_shift(np.left_shift(samples, frame.left), frame.right)
    return stored


def in_strips(function: Function, samples: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Apply *function*, which returns uint8 and may add axes, to all samples, a few rows at a time."""
    step = max(1, _STRIP // max(1, samples[0].size))
    shape = samples.shape + function(samples[:1, :1]).shape[samples.ndim :]
    levels = np.empty(shape, np.uint8)
    for start in range(0, len(samples), step):
        levels[start : start + step] = function(samples[start : start + step])
    return levels


def apply(function: Function, samples: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Apply *function* to samples; up to 16 bits by a lookup table: it is evaluated once for every possible value."""
    size = samples.dtype.itemsize
    if size > 2:  # noqa: PLR2004 - 16 bits have 65 536 values
        return in_strips(function, samples)
    every = np.arange(256**size, dtype=f"u{size}").view(f"{samples.dtype.kind}{size}")
    table = function(every)
    # A view keeps the byte order of the dtype.
    index = samples.view(samples.dtype.str.replace("i", "u"))
    return in_strips(lambda strip: np.take(table, strip, axis=0), index)
