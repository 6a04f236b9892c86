"""Detect out-of-distribution images: distance of an image's tokens from those of a reference set, measured three ways.

Tokens are standardised with the mean and standard deviation at their patch position. Then distances are measured:

- of the channels at each position, by their covariance (Mahalanobis): an image of another type breaks the correlations
  even if no single channel is unusual;
- of the image as a whole, what its principal components leave: in a scrambled image each patch is usual, their
  arrangement is not. A finding lies along the components, because the reference set holds ill patients, too.

- of the direction from the reference images to the same images upside down, if a regression tells the two apart: an
  upside-down slice of a head without ventricles is usual in every other way.

The reference set is completed by perturbed views of its images (worker.retrieval.perturbation). Thresholds are
measured, not configured: each image and view is compared with the others, and a limit lies above nearly all of them.
Measured: docs/measurements/2026-11-28-out-of-distribution.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Array = npt.NDArray[np.float32]
    HalfArray = npt.NDArray[np.float16]
    Float64Array = npt.NDArray[np.float64]

#: Weight, in images, of the variance over all positions in the variance at each position: steadies small sets.
PRIOR_IMAGES = 16
#: Finest grid of patches, on a side, and most channels of a layer: bound the cost for larger towers.
GRID, CHANNELS = 8, 192
#: Shrinkage of the covariance towards a sphere: directions without variance in few images may vary in others.
SHRINKAGE = 0.1
#: Keeps standard deviations, covariance and kernel invertible when all reference images are identical.
EPSILON = 1e-6
#: Principal components of whole images, at most one for this number of images.
COMPONENTS, IMAGES_PER_COMPONENT = 120, 4
#: Images and views that a detector is fitted to, evenly spaced: bounds its memory and the cost of its components.
MAX_FITTED = 1500
#: Parts of the reference set that are compared with the others.
FOLDS = 3
#: Images and views, and as many upside-down ones, that the direction upside down is fitted to, and its regularisation.
MAX_TURNED, TURNED_RIDGE = 500, 0.05
#: The limit lies halfway to the upside-down images, or above this quantile of the reference images by a margin. At
#: least this share of the upside-down ones must lie beyond it, each of another fold: if the images of a kind look alike
#: either way, as tissue does, none is refused for it.
HALFWAY, TURNED_QUANTILE, TURNED_MARGIN, MIN_TOLD_APART = 0.5, 0.99, 1.15, 0.8
#: The threshold is this quantile of the scores, times 1 + MARGIN / sqrt(images) for the error of the quantile.
QUANTILE, MARGIN = 0.97, 0.6


@dataclass(frozen=True, slots=True)
class OodResult:
    """Comparison of a study's images with the reference images of their modality."""

    #: Score of each image: its distance in units of that which few reference images exceed.
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
    tokens; `components` [n, positions * channels], the principal components of whole images; `limits` [2], the two
    distances that few reference images exceed; `threshold` in units of them. `upside_down` [positions * channels + 1],
    a direction and its offset, in which images beyond 1 are upside down; empty if the two look alike.
    """

    mean: Array
    std: Array
    precision: Array
    components: HalfArray
    limits: Array
    threshold: float
    upside_down: Array = field(default_factory=lambda: np.zeros(0, np.float32))

    @classmethod
    def fit(
        cls, images: Sequence[HalfArray], owners: Sequence[int] = (), turned: Sequence[tuple[HalfArray, int]] = ()
    ) -> OodDetector:
        """Fit to the reduced tokens [positions, channels] of two reference images or more.

        *owners* has a number for each image: an image is not compared with others of the same owner. *turned* has the
        tokens of upside-down images, each with its owner.
        """
        chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), MAX_FITTED)).astype(int))
        tokens = np.stack([images[row] for row in chosen]).astype(np.float32)
        numbers = np.array(owners)[chosen] if len(owners) else np.arange(len(tokens))
        folds = np.unique(numbers, return_inverse=True)[1] % FOLDS
        distances = np.concatenate([_of_others(tokens, folds == fold) for fold in np.unique(folds)])
        limits = np.maximum(np.quantile(distances, 0.99, axis=0), EPSILON).astype(np.float32)
        scores = (distances / limits).max(axis=1)
        threshold = float(np.quantile(scores, QUANTILE)) * (1 + MARGIN / len(scores) ** 0.5)
        model = _model(tokens)
        direction = _upside_down(model, tokens, numbers, turned) if turned else np.zeros(0, np.float32)
        return cls(*model, limits, max(threshold, EPSILON), direction)

    def score(self, tokens: HalfArray) -> Array:
        """Score each image's reduced tokens [images, positions, channels]: float32 [images]."""
        distances = _distances(tokens.astype(np.float32), self.mean, self.std, self.precision, self.components)
        scores: Array = (distances / self.limits).max(axis=1).astype(np.float32)
        if not self.upside_down.size:
            return scores
        flat = ((tokens.astype(np.float32) - self.mean) / self.std).reshape(len(tokens), -1)
        beyond = flat @ self.upside_down[:-1] + self.upside_down[-1]
        raised: Array = np.maximum(scores, np.float32(self.threshold) * beyond)
        return raised


def _of_others(tokens: Array, own: npt.NDArray[np.bool_]) -> Float64Array:
    """Return the distances [images, 2] of the images of a fold from the statistics of the other images."""
    return _distances(tokens[own], *_model(tokens if own.all() else tokens[~own]))


def _upside_down(
    model: tuple[Array, Array, Array, HalfArray],
    tokens: Array,
    owners: npt.NDArray[np.integer],
    turned: Sequence[tuple[HalfArray, int]],
) -> Array:
    """Return the direction from reference images to upside-down ones and its offset; empty if they look alike."""
    upright = np.unique(np.linspace(0, len(tokens) - 1, min(len(tokens), MAX_TURNED)).astype(int))
    chosen = np.unique(np.linspace(0, len(turned) - 1, min(len(turned), MAX_TURNED)).astype(int))
    images = np.concatenate([tokens[upright], np.stack([turned[n][0] for n in chosen]).astype(np.float32)])
    flat = ((images - model[0]) / model[1]).reshape(len(images), -1)
    is_turned = np.arange(len(flat)) >= len(upright)
    patients = np.concatenate([owners[upright], [turned[n][1] for n in chosen]])
    folds = np.unique(patients, return_inverse=True)[1] % FOLDS
    kernel, places = (flat @ flat.T / flat.shape[1]).astype(np.float64), np.zeros(len(flat))
    for fold in np.unique(folds):
        own = folds == fold
        if is_turned[~own].all() or not is_turned[~own].any():
            return np.zeros(0, np.float32)
        places[own] = _predicted(kernel, is_turned, ~own, own)
    limit = max(HALFWAY, float(np.quantile(places[~is_turned], TURNED_QUANTILE)) * TURNED_MARGIN)
    if (places[is_turned] > limit).mean() < MIN_TOLD_APART:
        return np.zeros(0, np.float32)
    mean, share = flat.mean(axis=0), is_turned.mean()
    weights = (flat - mean).T @ _dual(kernel, is_turned) / flat.shape[1]
    return (np.append(weights, share - mean @ weights) / limit).astype(np.float32)


def _dual(kernel: Float64Array, target: npt.NDArray[np.bool_]) -> Float64Array:
    """Return the dual weights of a ridge regression from centred images with a *kernel* to 0 or 1."""
    columns = kernel.mean(axis=0)
    centred = kernel - columns - columns[:, None] + columns.mean()
    centred[np.diag_indices_from(centred)] += TURNED_RIDGE * np.trace(centred) / len(centred) + EPSILON
    dual: Float64Array = np.linalg.solve(centred, target - target.mean())
    return dual


def _predicted(
    kernel: Float64Array, target: npt.NDArray[np.bool_], fitted: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_]
) -> Float64Array:
    """Return the predictions for *others* by the regression of the images *fitted*."""
    own, across = kernel[np.ix_(fitted, fitted)], kernel[np.ix_(others, fitted)]
    columns = own.mean(axis=0)
    centred = across - across.mean(axis=1, keepdims=True) - columns + columns.mean()
    predicted: Float64Array = centred @ _dual(own, target[fitted]) + target[fitted].mean()
    return predicted


def _model(tokens: Array) -> tuple[Array, Array, Array, HalfArray]:
    """Return mean, standard deviation, precision and components of tokens [images, positions, channels]."""
    moments = Moments()
    for image in tokens:
        moments.add(image.astype(np.float64))
    mean, std = moments.mean.astype(np.float32), moments.std().astype(np.float32)
    standardised = (tokens - mean) / std
    return mean, std, _precision(standardised).astype(np.float32), _components(standardised.reshape(len(tokens), -1))


def _distances(tokens: Array, mean: Array, std: Array, precision: Array, components: HalfArray) -> Float64Array:
    """Return for each image the root mean square of both distances: [images, 2]."""
    standardised = (tokens - mean) / std
    of_channels = ((standardised @ precision) * standardised).mean(axis=(1, 2))
    flat = standardised.reshape(len(tokens), -1)
    explained = np.square(flat @ components.T.astype(np.float32)).sum(axis=1)
    outside = np.maximum(np.square(flat).sum(axis=1) - explained, 0) / flat.shape[1]
    distances: Float64Array = np.sqrt(np.stack([of_channels, outside], axis=1)).astype(np.float64)
    return distances


def _components(images: Array) -> HalfArray:
    """Return the principal components [n, features] of standardised images [images, features]."""
    count = min(COMPONENTS, len(images) // IMAGES_PER_COMPONENT)
    # From the products of the images: there are fewer images than features.
    variances, weights = np.linalg.eigh(images @ images.T)
    variances, weights = variances[::-1][:count], weights[:, ::-1][:, :count]
    varying = variances > EPSILON * max(variances[0] if count else 0.0, 1.0)
    components: Array = (images.T @ weights[:, varying] / np.sqrt(variances[varying])).T
    # Half of the size on disk and in memory; the projection is summed in single precision.
    return components.astype(np.float16)


class Moments:
    """Mean and variance at every position, updated image by image (Welford 1962).

    scikit-learn's StandardScaler is not used: it has no prior. Figures in docs/decisions/feature-statistics.md.
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


def _shrunk_std(squares: Float64Array, count: int) -> Float64Array:
    overall = (squares / count).mean(axis=-2, keepdims=True)
    variance: Float64Array = (squares + overall * PRIOR_IMAGES) / (count + PRIOR_IMAGES)
    return np.sqrt(variance) + EPSILON


def _precision(standardised: Array) -> Float64Array:
    flat = standardised.reshape(-1, standardised.shape[-1]).astype(np.float64)
    covariance = flat.T @ flat / len(flat)
    sphere = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * sphere + EPSILON * np.eye(len(covariance))
    return np.linalg.inv(shrunk)


def reduce_tokens(tokens: npt.NDArray[Any]) -> Array:
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
