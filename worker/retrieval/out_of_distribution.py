"""How strange an image is for its kind: how far its tokens lie from what a reference set shows at their places.

Tokens are compared with the mean and spread at their place, and then with how channels vary together: an image of
another kind breaks that even where no single channel is unusual. What is strange is measured, not chosen: each
reference image is compared with the others, and the limit lies above nearly all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Array = npt.NDArray[np.float32]
    Exact = npt.NDArray[np.float64]

#: Images that the spread over all places counts for at each single place: a small reference set knows few spreads.
PRIOR_IMAGES = 16
#: Patches on a side, and channels of a layer, that are looked at of a tower with more: the cost must not grow with it.
GRID, CHANNELS = 8, 192
#: How much of the covariance is taken from a sphere: directions that hardly vary in few images may vary in others.
SPHERE = 0.1
#: Reference images that are all the same have no spread at all.
TINY = 1e-6
#: The limit: the z that all but one in a hundred of the kind stay below, with a margin that shrinks with the root of
#: their number, and one that shrinks with their number, for how channels vary together is fitted to the same images.
GENUINE, MARGIN, FITTED_MARGIN = 0.99, 1.5, 5.0


@dataclass(frozen=True, slots=True)
class Gate:
    """What tells images of a kind from others.

    `mean` and `spread` [places, channels]; `metric` [channels, channels] the inverse covariance of whitened tokens;
    `usual` the median distance of the reference images, each measured by the others; `limit` in units of it.
    """

    mean: Array
    spread: Array
    metric: Array
    usual: float
    limit: float


class Moments:
    """Mean and variance at every place, image by image (Welford 1962)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Exact = np.zeros(1)
        self._squares: Exact = np.zeros(1)

    def add(self, image: Exact) -> None:
        """Take one image's tokens."""
        self.count += 1
        delta = image - self.mean
        self.mean = self.mean + delta / self.count
        self._squares = self._squares + delta * (image - self.mean)

    def spread(self) -> Exact:
        """Standard deviation, drawn towards that over all places where the images are few."""
        return _spread(self._squares, self.count)

    def without(self, image: Exact) -> tuple[Exact, Exact]:
        """Mean and spread of the others: by them an image is measured as a new one is."""
        others = self.count - 1
        mean = (self.mean * self.count - image) / others
        squares = self._squares - (image - self.mean) * (image - mean)
        return mean, _spread(np.maximum(squares, 0), others)


def _spread(squares: Exact, count: int) -> Exact:
    everywhere = (squares / count).mean(axis=-2, keepdims=True)
    drawn: Exact = (squares + everywhere * PRIOR_IMAGES) / (count + PRIOR_IMAGES)
    return np.sqrt(drawn) + TINY


def fit(images: Sequence[Array]) -> Gate:
    """The gate of a kind from the reduced tokens [places, channels] of two reference images or more."""
    exact = [image.astype(np.float64) for image in images]
    moments = Moments()
    for image in exact:
        moments.add(image)
    metric = _metric(exact, moments)
    own = np.array([_distance(image, *moments.without(image), metric) for image in exact])
    usual = max(float(np.median(own)), TINY)
    margin = MARGIN / len(own) ** 0.5 + FITTED_MARGIN / len(own)
    limit = max(float(np.quantile(own, GENUINE)) / usual, 1.0) * (1 + margin)
    mean, spread = moments.mean.astype(np.float32), moments.spread().astype(np.float32)
    return Gate(mean, spread, metric.astype(np.float32), usual, limit)


def _metric(images: Sequence[Exact], moments: Moments) -> Exact:
    covariance: Exact = np.zeros((images[0].shape[1],) * 2)
    spread = moments.spread()
    for image in images:
        white = (image - moments.mean) / spread
        covariance += white.T @ white / len(white) / len(images)
    sphere = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    metric: Exact = np.linalg.inv((1 - SPHERE) * covariance + SPHERE * sphere + TINY * np.eye(len(covariance)))
    return metric


def _distance(image: npt.NDArray[Any], mean: npt.NDArray[Any], spread: npt.NDArray[Any], metric: Any) -> float:
    white = (image - mean) / spread
    return float(np.sqrt(((white @ metric) * white).mean()))


def z(tokens: Array, gate: Gate) -> Array:
    """The distance of each image's reduced tokens [images, places, channels], in units of the usual one."""
    return np.array([_distance(p, gate.mean, gate.spread, gate.metric) for p in tokens], np.float32) / gate.usual


def reduced(tokens: Array) -> Array:
    """Tokens [images, patches, channels] of at most GRID * GRID places and CHANNELS channels."""
    count, patches, channels = tokens.shape
    side = int(patches**0.5)
    if side > GRID:
        step = side // GRID
        square = tokens.reshape(count, side, side, channels)[:, : step * GRID, : step * GRID]
        tokens = square.reshape(count, GRID, step, GRID, step, channels).mean(axis=(2, 4))
        tokens = tokens.reshape(count, GRID * GRID, channels)
    if channels > CHANNELS:
        # Random directions keep distances (Johnson and Lindenstrauss); the seed is part of the format.
        tokens = tokens @ np.random.default_rng(0).standard_normal((channels, CHANNELS), np.float32) / CHANNELS**0.5
    return tokens.astype(np.float32)
