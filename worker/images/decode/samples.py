"""Samples as decoded to values as stored, and a computation on every pixel at the price of a few."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from worker.images.decode.frames import Frame

    Turn = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]

#: Pixels turned at a time: numpy widens indices and real values to 8 bytes each.
_STRIP = 1 << 18


def stored_values(samples: npt.NDArray[Any], frame: Frame) -> npt.NDArray[Any]:
    """Remove the bits that are not pixel and extend the sign (PS3.5 8.1.1)."""
    if not frame.left and not frame.right:
        return samples
    stored: npt.NDArray[Any] = np.right_shift(np.left_shift(samples, frame.left), frame.right)
    return stored


def in_strips(turn: Turn, samples: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """*turn*, which gives uint8, of all samples, a few rows at a time; it may add axes."""
    step = max(1, _STRIP // max(1, samples[0].size))
    shape = samples.shape + turn(samples[:1, :1]).shape[samples.ndim :]
    levels = np.empty(shape, np.uint8)
    for start in range(0, len(samples), step):
        levels[start : start + step] = turn(samples[start : start + step])
    return levels


def each_looked_up(turn: Turn, samples: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The same for samples of 8 or 16 bits: *turn* sees every value they can hold once, each pixel is a look-up."""
    size = samples.dtype.itemsize
    every = np.arange(256**size, dtype=f"u{size}").view(f"{samples.dtype.kind}{size}")
    table = turn(every)
    # Byte order is the type's: a view keeps it.
    index = samples.view(samples.dtype.str.replace("i", "u"))
    return in_strips(lambda strip: np.take(table, strip, axis=0), index)
