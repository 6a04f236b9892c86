"""Detect out-of-distribution images: Mahalanobis distance of an image's tokens from those of a reference set.

Tokens are standardised with the mean and standard deviation at their patch position, then compared by the covariance
of their channels: an image of another type breaks the correlations even if no single channel is unusual. The threshold
is measured, not configured: each reference image is scored against the others, and the threshold lies above nearly all
of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Array = npt.NDArray[np.float32]
    Float64Array = npt.NDArray[np.float64]

#: Weight, in images, of the variance over all positions in the variance at each position: steadies small sets.
PRIOR_IMAGES = 16
#: Finest grid of patches, on a side, and most channels of a layer: bound the cost for larger towers.
GRID, CHANNELS = 8, 192
#: Shrinkage of the covariance towards a sphere: directions without variance in few images may vary in others.
SHRINKAGE = 0.1
#: Keeps standard deviations and the covariance invertible when all reference images are identical.
EPSILON = 1e-6
#: The threshold is this quantile of the leave-one-out scores, times 1 + MARGIN / sqrt(images) for the error of the
#: quantile + FITTED_MARGIN / images because the covariance is fitted to the same images.
QUANTILE, MARGIN, FITTED_MARGIN = 0.99, 1.5, 5.0


@dataclass(frozen=True, slots=True)
class OodResult:
    """Comparison of a study's images with the reference images of their modality."""

    #: Score of each image: Mahalanobis distance in units of the reference images' median distance.
    scores: list[float]
    #: Number of reference images.
    reference_images: int
    #: True if the reference set has enough patients and shows this body part, so that images may be rejected.
    can_reject: bool
    #: Score above which an image is out of distribution.
    threshold: float
    #: Cosine similarity below which a reference case is not similar, even if it is the nearest.
    min_similarity: float
    #: Body part of the reference cases that the images resemble, if it is not the one of the header; else empty.
    resembled_part: str = ""

    @property
    def in_distribution(self) -> list[int]:
        """Indices of the images at or below the threshold."""
        return [index for index, score in enumerate(self.scores) if score <= self.threshold]


@dataclass(frozen=True, slots=True)
class OodDetector:
    """Detector fitted to the reference images of one modality family.

    `mean` and `std` [positions, channels]; `precision` [channels, channels], the inverse covariance of standardised
    tokens; `median_distance` of the reference images, each measured against the others; `threshold` in units of it.
    """

    mean: Array
    std: Array
    precision: Array
    median_distance: float
    threshold: float

    @classmethod
    def fit(cls, images: Sequence[Array]) -> OodDetector:
        """Fit to the reduced tokens [positions, channels] of two reference images or more."""
        exact = [image.astype(np.float64) for image in images]
        moments = Moments()
        for image in exact:
            moments.add(image)
        precision = _precision(exact, moments)
        distances = np.array([mahalanobis(image, *moments.without(image), precision) for image in exact])
        median = max(float(np.median(distances)), EPSILON)
        margin = MARGIN / len(distances) ** 0.5 + FITTED_MARGIN / len(distances)
        threshold = max(float(np.quantile(distances, QUANTILE)) / median, 1.0) * (1 + margin)
        mean, std = moments.mean.astype(np.float32), moments.std().astype(np.float32)
        return cls(mean, std, precision.astype(np.float32), median, threshold)

    def score(self, tokens: Array) -> Array:
        """Score each image's reduced tokens [images, positions, channels]: float32 [images]."""
        distances = [mahalanobis(image, self.mean, self.std, self.precision) for image in tokens]
        return np.array(distances, np.float32) / self.median_distance


class Moments:
    """Mean and variance at every position, updated image by image (Welford 1962).

    scikit-learn's StandardScaler is not used: it has no prior and cannot leave out one image. Figures in
    docs/decisions/feature-statistics.md.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Float64Array = np.zeros(1)
        self._squares: Float64Array = np.zeros(1)

    def add(self, image: Float64Array) -> None:
        """Add the tokens of one image."""
        self.count += 1
        delta = image - self.mean
        self.mean = self.mean + delta / self.count
        self._squares = self._squares + delta * (image - self.mean)

    def std(self) -> Float64Array:
        """Return the standard deviation, shrunk towards that over all positions."""
        return _shrunk_std(self._squares, self.count)

    def without(self, image: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return mean and standard deviation of the other images, so that *image* is scored like a new one."""
        others = self.count - 1
        mean = (self.mean * self.count - image) / others
        squares = self._squares - (image - self.mean) * (image - mean)
        return mean, _shrunk_std(np.maximum(squares, 0), others)


def _shrunk_std(squares: Float64Array, count: int) -> Float64Array:
    overall = (squares / count).mean(axis=-2, keepdims=True)
    variance: Float64Array = (squares + overall * PRIOR_IMAGES) / (count + PRIOR_IMAGES)
    return np.sqrt(variance) + EPSILON


def _precision(images: Sequence[Float64Array], moments: Moments) -> Float64Array:
    covariance: Float64Array = np.zeros((images[0].shape[1],) * 2)
    std = moments.std()
    for image in images:
        standardised = (image - moments.mean) / std
        covariance += standardised.T @ standardised / len(standardised) / len(images)
    sphere = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * sphere + EPSILON * np.eye(len(covariance))
    return np.linalg.inv(shrunk)


def mahalanobis(image: npt.NDArray[Any], mean: npt.NDArray[Any], std: npt.NDArray[Any], precision: Any) -> float:
    """Return the root mean square over positions of the Mahalanobis distance of tokens [positions, channels]."""
    standardised = (image - mean) / std
    return float(np.sqrt(((standardised @ precision) * standardised).mean()))


def reduce_tokens(tokens: Array) -> Array:
    """Reduce tokens [images, patches, channels] to at most GRID * GRID positions and CHANNELS channels."""
    count, patches, channels = tokens.shape
    side = int(patches**0.5)
    if side > GRID:
        step = side // GRID
        square = tokens.reshape(count, side, side, channels)[:, : step * GRID, : step * GRID]
        tokens = square.reshape(count, GRID, step, GRID, step, channels).mean(axis=(2, 4))
        tokens = tokens.reshape(count, GRID * GRID, channels)
    if channels > CHANNELS:
        # Random directions keep distances (Johnson and Lindenstrauss 1984). The seed is part of the file format:
        # GaussianRandomProjection draws other directions, and snapshots on disk were made with these.
        tokens = tokens @ np.random.default_rng(0).standard_normal((channels, CHANNELS), np.float32) / CHANNELS**0.5
    return tokens.astype(np.float32)
