"""Recognise the same image again, although it was exported with other grey levels or cropped a little.

A near-duplicate of a study is the patient's own earlier image, even under another Patient ID: its report must not be
quoted. Two images are compared by small prints of them: one is aligned to the other (shift and scale), then what a
blur leaves is compared locally, because the coarse shape of two patients' images of one type is the same. Mirrored,
turned by right angles or with inverted grey levels an image is the same, too, if it was not cropped besides.

Measured on phantoms: docs/measurements/2026-11-28-index.md.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    Rgb = npt.NDArray[np.uint8]
    #: [SIDE, SIDE]
    Plane = npt.NDArray[np.floating]

#: Pixels on a side of a print.
SIDE = 64
#: Similarity from which two images are the same: above the highest measured of other patients, 0.904, and below the
#: lowest of duplicates, except that of cropped skin images (0.892), which can be missed.
LIMIT = 0.905
#: Radii of the blurs removed while aligning, coarse to fine, and of the comparison; of its local scale, in pixels.
ALIGNING, FINE, LOCAL = (6, 6, 3, 3, 2, 2), 1, 4
#: Grey levels added to the local scale, so that the noise of an even area does not count.
NOISE = 1.0
#: Scales that the alignment starts from, and its largest shift and change of scale, in parts of the half width.
STARTS, MAX_MOVE = (0.0, -0.04), 0.1
#: Images of a study that are compared, if it has more: all slices of an exported volume are equal, or none. Eight
#: slices compared with those of three cases took 4.3 s, of 4.7 s for the whole report.
MAX_COMPARED = 2
#: Pixels at the border that a crop may have lost.
MARGIN = 5
_AXIS = np.linspace(-1, 1, SIDE)
_Y, _X = np.meshgrid(_AXIS, _AXIS, indexing="ij")
_INNER = (slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))


def prints_of(images: Sequence[Rgb]) -> npt.NDArray[np.uint8]:
    """Return a small grey copy of each image: [images, SIDE, SIDE]."""
    small = [Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS) for image in images]
    return np.array([np.asarray(image) for image in small], np.uint8).reshape(-1, SIDE, SIDE)


def digests_of(images: Sequence[Rgb]) -> list[str]:
    """Return a digest of the pixels of each image, the same for equal images only; none for an even image."""
    return [
        hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()[:32]
        for image in images
        if image.min() < image.max()
    ]


def shows_the_same(ours: npt.NDArray[np.uint8], theirs: npt.NDArray[np.uint8]) -> bool:
    """Return whether an image of one study is nearly equal to one of the other, by their prints.

    Of more than MAX_COMPARED images of our study, MAX_COMPARED inner ones are compared.
    """
    if len(ours) > MAX_COMPARED:
        ours = ours[np.linspace(0, len(ours) - 1, MAX_COMPARED + 2)[1:-1].round().astype(int)]
    return any(similarity(one, other) >= LIMIT for one in ours for other in theirs)


def similarity(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Return the correlation of two prints after one is aligned to the other, or mirrored and turned, -1 to 1."""
    moving, fixed = one.astype(np.float32), other.astype(np.float32)
    if min(moving.std(), fixed.std()) < NOISE:
        return -1.0
    detail, sharp = _detail(fixed), {radius: _without_blur(fixed, radius) for radius in {*ALIGNING}}
    if (turned := _turned(_detail(moving), detail)) >= LIMIT:
        return turned
    return max(_correlation(_detail(_sample(moving, _aligned(moving, sharp, start))), detail) for start in STARTS)


def _turned(ours: Plane, theirs: Plane) -> float:
    """Return the highest correlation of the details of two prints, one of them mirrored, turned or inverted."""
    mirrored = (ours, ours[:, ::-1])
    return max(abs(_correlation(np.rot90(one, times), theirs)) for one in mirrored for times in range(4))


def _aligned(moving: Plane, sharp: Mapping[int, Plane], scale: float) -> npt.NDArray[np.float64]:
    """Return shift and scale (x, y, x, y) from Gauss-Newton steps, also fitted to the gain.

    *sharp* has the other print without its blur of each radius.
    """
    place = np.array([0.0, 0.0, scale, scale])
    for radius in ALIGNING:
        ours, theirs = _without_blur(_sample(moving, place), radius), sharp[radius]
        down, across = np.gradient(ours, axis=0), np.gradient(ours, axis=1)
        half = (SIDE - 1) / 2
        columns = [across * half, down * half, across * half * _X, down * half * _Y, ours]
        slopes = np.stack([column[_INNER].ravel() for column in columns], axis=1).astype(np.float64)
        normal = slopes.T @ slopes + np.eye(len(columns))
        step = np.linalg.solve(normal, slopes.T @ (theirs - ours)[_INNER].ravel())
        place = np.clip(place + step[:4], -MAX_MOVE, MAX_MOVE)
    return place


def _sample(plane: Plane, place: npt.NDArray[np.float64]) -> Plane:
    """Return *plane* shifted and scaled, by bilinear interpolation: along its rows, then along its columns."""
    (above, below), (left, right) = (_between(place[axis], place[axis + 2]) for axis in (1, 0))
    rows = plane[above] * (1 - below)[:, None] + plane[above + 1] * below[:, None]
    sampled: Plane = (rows[:, left] * (1 - right) + rows[:, left + 1] * right).astype(np.float32)
    return sampled


def _between(shift: float, scale: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return for each place along an axis the pixel before the one that it is sampled at, and the distance from it."""
    at = np.clip((_AXIS * (1 + scale) + shift + 1) / 2 * (SIDE - 1), 0, SIDE - 1.001)
    before = at.astype(np.int64)
    return before, at - before


def _detail(plane: Plane) -> Plane:
    """Return what a blur leaves, relative to its size nearby: edges as strong as a skull's decide nothing alone."""
    fine = _without_blur(plane, FINE)
    detail: Plane = fine / (np.sqrt(np.maximum(_blurred(fine * fine, LOCAL), 0)) + np.float32(NOISE))
    return detail


def _without_blur(plane: Plane, radius: int) -> Plane:
    return plane - _blurred(plane, radius)


def _blurred(plane: Plane, radius: int) -> Plane:
    """Return the mean over a square of 2 * *radius* + 1 pixels; beyond the border the pixels there are repeated."""
    along = _means(radius)
    blurred: Plane = along @ plane @ along.T
    return blurred


@cache
def _means(radius: int) -> npt.NDArray[np.float32]:
    """Return the matrix [SIDE, SIDE] of the means over 2 * *radius* + 1 pixels along an axis."""
    matrix = np.zeros((SIDE, SIDE), np.float32)
    for place in range(SIDE):
        near = np.clip(np.arange(place - radius, place + radius + 1), 0, SIDE - 1)
        np.add.at(matrix[place], near, 1 / len(near))
    return matrix


def _correlation(one: Plane, other: Plane) -> float:
    a, b = (plane[_INNER] - plane[_INNER].mean() for plane in (one, other))
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-9))
