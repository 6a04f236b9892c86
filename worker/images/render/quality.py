"""Warnings about the quality of an image: blank, saturated, noise, small.

Frames that cannot be decoded are rejected elsewhere (Unreadable). A decoded image is never rejected for its content,
because a blank exposure is a finding for the radiographer; it gets a warning instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

BLANK = "blank (all pixels have the same value)"
SATURATED = "saturated (nearly all pixels are white, or only black and white)"
NOISE = "noise only (adjacent pixels are uncorrelated)"
SMALL = "small (fewer than 64 pixels on the shorter side)"
TINY = "tiny (fewer than 8 pixels on the shorter side)"

#: Warnings after which nothing in the image can be a finding.
WITHOUT_INFORMATION = frozenset({BLANK, SATURATED, NOISE, TINY})

_SMALL_SIDE, _TINY_SIDE = 64, 8
#: Range of grey levels of a blank image, between these quantiles; compression leaves a level or two.
_BLANK_SPREAD = 2
_QUANTILES = (0.001, 0.999)
_SATURATED_SHARE = 0.98
#: Share of white above which black and white alone are a mask; less may be a few catheters on black.
_MASK_SHARE = 0.2
#: Correlation of each pixel with its right and lower neighbour; radiographs and ultrasound have 0.8 and more.
_NOISE_CORRELATION = 0.1
#: Pixels of a side below which a correlation is not meaningful.
_MIN_CORRELATED_SIDE = 32


def warnings_about(levels: npt.NDArray[np.uint8]) -> list[str]:
    """Return warnings about an image, uint8 [rows, columns] or [rows, columns, 3]; [] for most."""
    grey = levels if levels.ndim == 2 else levels[..., 1]  # noqa: PLR2004 - green carries most of the luminance
    side = min(grey.shape)
    found = [TINY] if side < _TINY_SIDE else [SMALL] if side < _SMALL_SIDE else []
    # By Pillow: numpy widens the samples it counts to 8 bytes each.
    counts = np.array(Image.fromarray(np.ascontiguousarray(grey)).histogram())
    share = counts / grey.size
    low, high = np.searchsorted(np.cumsum(share), _QUANTILES)
    if high - low <= _BLANK_SPREAD and np.ptp(np.flatnonzero(counts)) <= 2 * _BLANK_SPREAD:
        return [*found, BLANK]
    black, white = share[0], share[255]
    if white > _SATURATED_SHARE or (white > _MASK_SHARE and white + black > _SATURATED_SHARE):
        return [*found, SATURATED]
    return [*found, NOISE] if _uncorrelated(grey) else found


def _uncorrelated(grey: npt.NDArray[np.uint8]) -> bool:
    if min(grey.shape) < _MIN_CORRELATED_SIDE:
        return False
    rows, columns = (max(0, side // 2 - 256) for side in grey.shape)
    middle = grey[rows : rows + 512, columns : columns + 512].astype(np.float32)
    centred = middle - middle.mean()
    energy = _product(centred, centred)
    if energy == 0:
        return False
    right, below = _product(centred[:, 1:], centred[:, :-1]), _product(centred[1:], centred[:-1])
    return max(right, below) / energy < _NOISE_CORRELATION


def _product(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Return the mean product of corresponding pixels."""
    return float(np.einsum("ij,ij->", a, b)) / a.size
