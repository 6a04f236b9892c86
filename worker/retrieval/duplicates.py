"""Recognise the same image again, although it was exported with other grey levels or cropped a little.

A near-duplicate of a study is the patient's own earlier image, even under another Patient ID: its report must not be
quoted. Two images are compared by small prints of them: one is aligned to the other (shift, scale, a small rotation),
then what a blur leaves is compared locally, because the coarse shape of two patients' images of one type is the same.
Mirrored, turned by right angles, with inverted grey levels or with equalised histogram an image is the same, too, if it
was not cropped besides.

A crop of an image is the image enlarged, and an image in a frame is the reverse: the one that shows more is moved onto
the other one, so that all places compared lie in both. Shift and enlargement are found by the correlation of the
coarse shapes, then refined by Gauss-Newton steps together with the rotation.

Measured on phantoms: docs/measurements/2026-11-29-duplicates.md, 2026-11-29-speed.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Rgb = npt.NDArray[np.uint8]
    #: [SIDE, SIDE], or [SIDE * _FACTOR, SIDE * _FACTOR] of an enlarged image.
    Plane = npt.NDArray[np.floating]
    #: Shift (x, y), change of scale (x, y), in parts of the half width, and rotation, in radians.
    Place = npt.NDArray[np.float64]

#: Pixels on a side of a print.
SIDE = 64
#: Pixels at the border that are not compared.
MARGIN = 5
_INNER = (slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
#: Changes of scale that the search begins with; the lowest is a crop of 16 % at each border.
_SCALES = (0.0, -0.08, -0.16, -0.24, -0.32)
#: Correlation of the coarse shapes below which two images are not the same: the lowest of 1,470 duplicates was 0.78.
_MIN_COARSE = 0.6
#: Radii of the blurs removed in the search, and in the steps, coarse to fine, in pixels.
_COARSE, _STEPS = 6, (6, 3, 3, 2, 2, 1, 1)
#: Largest shift, change of scale, and rotation of about 5 degrees.
_LOWEST, _HIGHEST = (-0.5, -0.5, -0.45, -0.45, -0.08), (0.5, 0.5, 0.1, 0.1, 0.08)
#: Enlargement of the image that is moved: interpolation at its own pixels blurs those between them.
_FACTOR = 3
_HALF = (SIDE - 1) / 2
_AXIS = np.linspace(-1, 1, SIDE)
_Y, _X = np.meshgrid(_AXIS, _AXIS, indexing="ij")
_WINDOW = np.outer(np.hanning(SIDE + 2)[1:-1], np.hanning(SIDE + 2)[1:-1])
#: Similarity from which two images are the same: above the highest measured of other patients, 0.875, and below the
#: lowest of duplicates, except of croppings by 15 % of endoscopies (0.90), which can be missed.
LIMIT = 0.905
#: Radii of the blur removed in the comparison, and of its local scale, in pixels.
FINE, LOCAL = 1, 4
#: Grey levels added to the local scale, so that the noise of an even area does not count.
NOISE = 1.0
#: Similarity of prints with equalised histograms from which two images are the same: below the lowest of 147 images and
#: their equalised exports, 0.68, and above the highest of other patients, 0.27.
EQUALISED_LIMIT = 0.6
#: Images of a study that are compared, if it has more: all slices of an exported volume are equal, or none. Eight
#: slices compared with those of three cases took 4.3 s, of 4.7 s for the whole report.
MAX_COMPARED = 2


@dataclass(frozen=True, slots=True)
class _Start:
    """A place that the refinement begins with: *moving* is moved onto *fixed*."""

    correlation: float
    moving: Plane
    fixed: Plane
    place: Place


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
    pairs = [(one, other) for one in ours for other in theirs]
    return any(equalised_similarity(*pair) >= EQUALISED_LIMIT or similarity(*pair) >= LIMIT for pair in pairs)


def equalised_similarity(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Return the correlation of two prints with equalised histograms, neither aligned nor turned, -1 to 1."""
    if min(one.std(), other.std()) < NOISE:
        return -1.0
    return _correlation(*(_equalised_detail(plane.tobytes()) for plane in (one, other)))


def similarity(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Return the correlation of two prints after one is aligned to the other, or mirrored and turned, -1 to 1."""
    ours, theirs = one.astype(np.float32), other.astype(np.float32)
    if min(ours.std(), theirs.std()) < NOISE:
        return -1.0
    if (turned := _turned(_detail(ours), _detail(theirs))) >= LIMIT:
        return turned
    pair = _aligned(ours, theirs)
    return max(turned, _correlation(*map(_detail, pair))) if pair else turned


# An image is compared with several others.
@lru_cache(maxsize=128)
def _equalised_detail(pixels: bytes) -> Plane:
    """Return the detail of a print, uint8, whose grey levels are replaced by their ranks."""
    levels = np.frombuffer(pixels, np.uint8)
    counts = np.bincount(levels, minlength=256)
    ranks = (np.cumsum(counts) - counts / 2) * (255 / levels.size)
    return _detail(ranks[levels].astype(np.float32).reshape(SIDE, SIDE))


def _turned(ours: Plane, theirs: Plane) -> float:
    """Return the highest correlation of the details of two prints, one of them mirrored, turned or inverted."""
    mirrored = (ours, ours[:, ::-1])
    return max(abs(_correlation(np.rot90(one, times), theirs)) for one in mirrored for times in range(4))


def _aligned(one: Plane, other: Plane) -> tuple[Plane, Plane] | None:
    """Return both images, one of them moved onto the other, with equally fine detail; None if nothing fits."""
    start = max((_start(*pair) for pair in ((one, other), (other, one))), key=lambda found: found.correlation)
    if start.correlation < _MIN_COARSE:
        return None
    large = _resized(start.moving, SIDE * _FACTOR)
    place = _refined(large, start.fixed, start.place)
    # An enlarged image has less detail than the other one, which loses it here.
    kept = round(SIDE * min(1.0, 1.05 + place[2:4].mean()))
    return _moved(large, place), _resized(_resized(start.fixed, kept), SIDE)


def _start(moving: Plane, fixed: Plane) -> _Start:
    """Return the change of scale and shift at which the coarse shapes correlate most."""
    ((spectrum, size),) = _coarse(fixed.tobytes(), (0.0,))
    found = []
    for scale, (shape, length) in zip(_SCALES, _coarse(moving.tobytes(), _SCALES), strict=True):
        fits = np.fft.irfft2(np.conj(shape) * spectrum, (SIDE, SIDE))
        near = np.arange(-(reach := int(-scale * SIDE / 2) + 4), reach + 1)
        down, across = np.unravel_index(fits[np.ix_(near, near)].argmax(), (len(near), len(near)))
        shift = -near[[across, down]] / _HALF * (1 + scale)
        best = fits[near[down], near[across]] / (length * size + 1e-9)
        found.append(_Start(float(best), moving, fixed, np.array([*shift, scale, scale, 0.0])))
    return max(found, key=lambda start: start.correlation)


# An image is compared with several others.
@lru_cache(maxsize=128)
def _coarse(pixels: bytes, scales: tuple[float, ...]) -> list[tuple[npt.NDArray[np.complexfloating], float]]:
    """Return spectrum and length of the coarse shape of a print, float32, at each change of scale."""
    plane: Plane = np.frombuffer(pixels, np.float32).reshape(SIDE, SIDE)
    large = None if scales == (0.0,) else _resized(plane, SIDE * _FACTOR)
    found: list[tuple[npt.NDArray[np.complexfloating], float]] = []
    for scale in scales:
        moved = plane if large is None else _moved(large, np.array([0.0, 0.0, scale, scale, 0.0]))
        shape = _without_blur(moved, _COARSE) * _WINDOW
        found.append((np.fft.rfft2(shape), float(np.linalg.norm(shape))))
    return found


def _refined(large: Plane, fixed: Plane, place: Place) -> Place:
    """Return *place* after Gauss-Newton steps, also fitted to the gain."""
    sharp = {radius: _without_blur(fixed, radius) for radius in {*_STEPS}}
    for radius in _STEPS:
        ours, theirs = _without_blur(_moved(large, place), radius), sharp[radius]
        slope = _HALF / (1 + place[2])
        down, across = (change * slope for change in np.gradient(ours))
        columns = [across, down, across * _X, down * _Y, down * _X - across * _Y, ours]
        slopes = np.array([column[_INNER].ravel() for column in columns], np.float64)
        normal = slopes @ slopes.T + np.eye(len(columns))
        step = np.linalg.solve(normal, slopes @ (theirs - ours)[_INNER].ravel())
        place = np.clip(place + step[:5], _LOWEST, _HIGHEST)
    return place


def _moved(large: Plane, place: Place) -> Plane:
    """Return an image of SIDE pixels, sampled from one of SIDE * _FACTOR by bilinear interpolation."""
    across, down, wider, higher, turn = place
    x, y = _X * (1 + wider) - _Y * turn + across, _Y * (1 + higher) + _X * turn + down
    (left, right), (above, below) = _between(x), _between(y)
    flat, side = large.ravel(), SIDE * _FACTOR
    at = above * side + left
    upper = flat[at] * (1 - right) + flat[at + 1] * right
    lower = flat[at + side] * (1 - right) + flat[at + side + 1] * right
    moved: Plane = upper * (1 - below) + lower * below
    return moved


def _between(place: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return for each place the pixel of the enlarged image before it, and the distance from that pixel."""
    at = np.clip(((place + 1) * _HALF + 0.5) * _FACTOR - 0.5, 0, SIDE * _FACTOR - 1.001)
    before = at.astype(np.int64)
    return before, (at - before).astype(np.float32)


def _resized(plane: Plane, side: int) -> Plane:
    if len(plane) == side:
        return plane
    image = Image.fromarray(np.asarray(plane, np.float32)).resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _without_blur(plane: Plane, radius: int) -> Plane:
    """Return *plane* less its mean over a square of 2 * *radius* + 1 pixels."""
    return plane - _blurred(plane, radius)


def _blurred(plane: Plane, radius: int) -> Plane:
    """Return the mean over a square of 2 * *radius* + 1 pixels; beyond the border the pixels there are repeated."""
    along = _means(radius)
    mean: Plane = along @ plane @ along.T
    return mean


@cache
def _means(radius: int) -> npt.NDArray[np.float32]:
    """Return the matrix [SIDE, SIDE] of the means over 2 * *radius* + 1 pixels along an axis."""
    matrix = np.zeros((SIDE, SIDE), np.float32)
    for place in range(SIDE):
        near = np.clip(np.arange(place - radius, place + radius + 1), 0, SIDE - 1)
        np.add.at(matrix[place], near, 1 / len(near))
    return matrix


def _detail(plane: Plane) -> Plane:
    """Return what a blur leaves, relative to its size nearby: edges as strong as a skull's decide nothing alone."""
    fine = _without_blur(plane, FINE)
    detail: Plane = fine / (np.sqrt(np.maximum(_blurred(fine * fine, LOCAL), 0)) + np.float32(NOISE))
    return detail


def _correlation(one: Plane, other: Plane) -> float:
    a, b = (plane[_INNER] - plane[_INNER].mean() for plane in (one, other))
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-9))
