"""Features of an image, from the vision tower's patch tokens: a vector for retrieval and an out-of-distribution score.

The mean of the tokens identifies the type of image and hides its abnormality. Here each token is standardised with the
mean and standard deviation of the reference set at its patch position. The vector has two parts. If the reference cases
have labels, a ridge regression from standardised tokens to labels selects the deviations that matter: cases with the
same rare finding are close although the tower was never trained on that finding. The tokens that deviate most are kept
beside it, for findings without a label. The out-of-distribution score measures the size of all deviations.

Tokens are float arrays [images, layers, patches, channels], as worker.model.patch_tokens reads them from an InternVL
vision tower; the first layer is the shallow one. A whole search: `fit` to the reference images of one modality family,
`embed` them and the query with the result, compare by inner product.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from db.errors import ConfigurationError
from worker.retrieval.label_regression import FittedImages, ridge_regression
from worker.retrieval.out_of_distribution import Moments, OodDetector, reduce_tokens

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[np.float32]
    HalfArray = npt.NDArray[np.float16]

#: Softmax temperature over patches: how sharply the mean of the shallow layer concentrates on the most deviating ones.
TEMPERATURE = 0.5
#: Reference images the regression is fitted to, the first ones: its kernel has as many rows and columns.
MAX_FITTED_IMAGES = 4000
#: Weight of the most deviating tokens relative to the label scores.
DEVIATION_WEIGHT = 0.3
#: Below this number of patients the similarity of two unrelated cases cannot be estimated.
MIN_PATIENTS_TO_COMPARE = 20
#: Reference cases, evenly spaced, that are compared with all others: enough for medians.
MAX_COMPARED_CASES = 500
#: Upper bound of `min_similarity`: if most cases are alike, the remaining ones are less similar to their neighbours.
MAX_MIN_SIMILARITY = 0.5
#: First of the layers that score out-of-distribution images. Measured on three: by the shallow one an upside-down head
#: is in distribution; by the middle one alone every second head MR is in distribution for CT, by both deep ones none;
#: the last one alone holds only the trained output, and accepts some shuffled images.
FIRST_OOD_LAYER = 1
#: Keys of a detector's arrays in the file.
DETECTOR_KEYS = ("mean", "spread", "metric", "components", "usual")


class Origin(NamedTuple):
    """Patient and body part of an image."""

    owner: str
    body_part: str = ""


@dataclass(frozen=True, slots=True)
class FeatureStats:
    """Statistics of the reference images of one modality family.

    `mean` and `std` [layers, positions, channels], of reduced tokens; `detector` scores out-of-distribution images;
    `images` is the number of reference images; `weights` [features, labels], in units of each label's standard
    deviation, has no columns if the reference set has no labels; `label_names` names the columns ("nodule left":
    finding and side); `part_detectors` score images of each body part, if the reference set has several.
    """

    mean: Array
    std: Array
    detector: OodDetector
    images: int
    weights: Array
    label_names: tuple[str, ...] = ()
    #: Scores that separate reference patients with a label from those without it, and that suggest an omission
    #: (worker.retrieval.label_regression); not certified.
    label_thresholds: Array = field(default_factory=lambda: np.zeros(0, np.float32))
    omission_thresholds: Array = field(default_factory=lambda: np.zeros(0, np.float32))
    part_detectors: Mapping[str, OodDetector] = field(default_factory=dict)
    #: In a file of its own, which is mapped; None without labels, and in snapshots of earlier releases.
    fitted_images: FittedImages | None = None

    @classmethod
    def fit(
        cls,
        batches: Iterable[Array],
        labels: Sequence[Collection[str]] = (),
        origins: Sequence[Origin] = (),
        views: Sequence[tuple[HalfArray, Origin]] = (),
        turned: Sequence[tuple[HalfArray, Origin]] = (),
    ) -> FeatureStats:
        """Fit to the tokens of *batches*, read once, *labels*, one set for each image, and the images' *origins*.

        The detectors are also fitted to *views*, `deep_layers` [layers, patches, channels] of perturbed images, and the
        first one to *turned*, those of the same views upside down. Raises ConfigurationError for fewer than two images.
        """
        moments = Moments()
        known: list[tuple[HalfArray, Origin]] = []
        last_layers: list[HalfArray] = []
        for image in (image for tokens in batches for image in tokens):
            reduced = reduced_tokens(image[None])[0]
            origin = origins[moments.count] if len(origins) else Origin(str(moments.count))
            moments.add(reduced.astype(np.float64))
            known.append((_ood_tokens(reduced[None])[0], origin))
            if len(last_layers) < min(len(labels), MAX_FITTED_IMAGES):
                last_layers.append(reduced[-1].astype(np.float16))
        if moments.count < 2:  # noqa: PLR2004 - a standard deviation needs two
            raise ConfigurationError("too few reference images: each modality needs two or more")
        mean, std = moments.mean.astype(np.float32), moments.std().astype(np.float32)
        features = [((layer.astype(np.float32) - mean[-1]) / std[-1]).ravel() for layer in last_layers]
        owners = [origin.owner for _, origin in known]
        fitted = ridge_regression(features, labels, owners, keep_images=True)
        known += [(_concatenated(view), origin) for view, origin in views]
        detector = _fit_detector(known, [(_concatenated(view), origin) for view, origin in turned])
        parts = _part_detectors(known)
        thresholds = fitted.thresholds, fitted.omission_thresholds
        return cls(mean, std, detector, moments.count, fitted.weights, fitted.names, *thresholds, parts, fitted.images)

    @property
    def threshold(self) -> float:
        """Score above which an image is out of distribution."""
        return self.detector.threshold

    @property
    def vector_length(self) -> int:
        """Number of elements of a vector."""
        layers, _, channels = self.mean.shape
        return int(self.weights.shape[-1] + layers * channels)

    def embed(self, tokens: Array) -> Array:
        """Return a vector of length 1 for each image: float32 [images, labels + layers * channels]."""
        standardised = (reduced_tokens(tokens) - self.mean) / self.std
        deviations = DEVIATION_WEIGHT * _largest_deviations(standardised)
        if not self.weights.size:
            return _unit(deviations).astype(np.float32)
        # Not normalised: if no label scores high, the deviations decide.
        scores = (
            standardised[:, -1].reshape(len(tokens), -1) @ self.weights / np.float32(np.sqrt(self.weights.shape[1]))
        )
        return _unit(np.concatenate([scores, deviations], axis=1)).astype(np.float32)

    def weights_without(self, owners: Collection[str]) -> tuple[Array, int | None]:
        """Return the weights of the regression without the images of *owners*, and the number of these.

        None instead of the number, and the weights of all images, if images cannot be left out.
        """
        if self.fitted_images is None:
            return self.weights, None if self.weights.size else 0
        change, count = self.fitted_images.change_without(owners)
        return (self.weights if change is None else self.weights + change), count

    def label_shares(self, tokens: Array, weights: Array | None = None) -> Array:
        """Return the share of each patch in each label's score: float32 [images, patches, labels].

        The regression is linear: the shares of an image sum to its score. *weights* are those of `weights_without`, or
        of all images. No columns if the reference set has no label.
        """
        if not self.weights.size:
            return np.zeros((len(tokens), self.mean.shape[1], 0), np.float32)
        inputs = (reduced_tokens(tokens)[:, -1] - self.mean[-1]) / self.std[-1]
        of_patches = (self.weights if weights is None else weights).reshape(*inputs.shape[1:], -1)
        shares: Array = np.einsum("npc,pcl->npl", inputs, of_patches, optimize=True)
        return shares

    def score(self, tokens: Array) -> Array:
        """Return each image's out-of-distribution score: float32 [images]; below about 1 for reference images."""
        return self.detector.score(_ood_tokens(reduced_tokens(tokens)))

    def accepts(self, body_part: str, tokens: Array) -> npt.NDArray[np.bool_]:
        """Return for each image whether it is in the distribution of the reference images of *body_part*."""
        detector = self.part_detectors.get(body_part, self.detector)
        return detector.score(_ood_tokens(reduced_tokens(tokens))) <= detector.threshold

    def save(self, path: Path) -> None:
        """Write to an .npz file, under the keys of its format: older than the names here, and on disk at sites."""
        arrays: dict[str, Any] = _arrays("gate", self.detector)
        for number, detector in enumerate(self.part_detectors.values()):
            arrays |= _arrays(f"part{number}", detector)
        arrays["parts"] = np.array([*self.part_detectors], np.str_)
        arrays["labels"] = np.array(self.label_names, np.str_)
        arrays["label_thresholds"] = self.label_thresholds
        arrays["omission_thresholds"] = self.omission_thresholds
        np.savez(path, mean=self.mean, spread=self.std, weights=self.weights, pictures=self.images, **arrays)

    @classmethod
    def load(cls, path: Path) -> FeatureStats:
        """Read the file that `save` wrote; raises ConfigurationError if it is unreadable or of an earlier version."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                part_detectors = {
                    str(part): _detector(stored, f"part{number}") for number, part in enumerate(stored["parts"])
                }
                names = tuple(map(str, stored["labels"]))
                thresholds = stored["label_thresholds"], stored["omission_thresholds"]
                statistics = stored["mean"], stored["spread"], _detector(stored, "gate"), int(stored["pictures"])
                return cls(*statistics, stored["weights"], names, *thresholds, part_detectors)
        except (OSError, KeyError, ValueError) as error:
            raise ConfigurationError(f"unreadable file {path.name}: build the reference index again") from error


def _arrays(name: str, detector: OodDetector) -> dict[str, npt.NDArray[Any]]:
    return {
        f"{name}_mean": detector.mean,
        f"{name}_spread": detector.std,
        f"{name}_metric": detector.precision,
        f"{name}_components": detector.components,
        f"{name}_usual": detector.limits,
        f"{name}_limit": np.array(detector.threshold),
        f"{name}_upside_down": detector.upside_down,
    }


def _detector(stored: Mapping[str, npt.NDArray[Any]], name: str) -> OodDetector:
    mean, std, precision, components, limits = (stored[f"{name}_{key}"] for key in DETECTOR_KEYS)
    # Absent in snapshots of earlier releases.
    upside_down = stored.get(f"{name}_upside_down", np.zeros(0, np.float32))
    return OodDetector(mean, std, precision, components, limits, float(stored[f"{name}_limit"]), upside_down)


def _concatenated(view: HalfArray) -> HalfArray:
    """Concatenate the tokens of a view as `_ood_tokens` does: its layers are the deep ones."""
    reduced = reduced_tokens(view[None])[0]
    joined: HalfArray = reduced.transpose(1, 0, 2).reshape(reduced.shape[1], -1).astype(np.float16)
    return joined


def _fit_detector(
    known: Sequence[tuple[HalfArray, Origin]], turned: Sequence[tuple[HalfArray, Origin]] = ()
) -> OodDetector:
    owners = {owner: number for number, owner in enumerate(dict.fromkeys(origin.owner for _, origin in known))}
    upside_down = [(tokens, owners[origin.owner]) for tokens, origin in turned if origin.owner in owners]
    numbers = [owners[origin.owner] for _, origin in known]
    return OodDetector.fit([tokens for tokens, _ in known], numbers, upside_down)


def _part_detectors(known: Sequence[tuple[HalfArray, Origin]]) -> dict[str, OodDetector]:
    """Return a detector for each body part with enough patients; none if all images show one part."""
    of_part: dict[str, list[tuple[HalfArray, Origin]]] = defaultdict(list)
    for tokens, origin in known:
        of_part[origin.body_part].append((tokens, origin))
    if len(of_part) < 2:  # noqa: PLR2004 - the detector of the family is that of its only part
        return {}
    patients = {part: len({origin.owner for _, origin in images}) for part, images in of_part.items()}
    enough = (part for part, count in patients.items() if part and count >= MIN_PATIENTS_TO_COMPARE)
    return {part: _fit_detector(of_part[part]) for part in enough}


def min_similarity(vectors: Array, owners: npt.NDArray[np.integer]) -> float:
    """Return the lowest cosine similarity of a similar case: midway between unrelated and nearest reference cases.

    Both are medians over *vectors* [cases, n] of length 1. *owners* [cases] identify patients: cases of the same
    patient are not compared, because they are never quoted to each other. At most MAX_MIN_SIMILARITY; -1, which accepts
    every case, if there are too few patients.
    """
    if len(np.unique(owners)) < MIN_PATIENTS_TO_COMPARE:
        return -1.0
    unrelated, nearest = [], []
    for row in np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), MAX_COMPARED_CASES)).astype(int)):
        others = (vectors @ vectors[row])[owners != owners[row]]
        unrelated.append(np.median(others))
        nearest.append(others.max())
    return min(float(np.median(unrelated) + np.median(nearest)) / 2, MAX_MIN_SIMILARITY)


def _largest_deviations(standardised: Array) -> Array:
    norms = np.linalg.norm(standardised[:, 0], axis=-1) / np.sqrt(standardised.shape[-1])
    weights = np.exp((norms - norms.max(axis=1, keepdims=True)) / TEMPERATURE)
    weights /= weights.sum(axis=1, keepdims=True)
    parts = [_unit(np.einsum("np,npc->nc", weights, standardised[:, 0]))]
    for layer in range(1, standardised.shape[1]):
        strongest = np.abs(standardised[:, layer]).argmax(axis=1)
        parts.append(_unit(np.take_along_axis(standardised[:, layer], strongest[:, None], axis=1)[:, 0]))
    return _unit(np.concatenate(parts, axis=1))


def reduced_tokens(tokens: npt.NDArray[Any]) -> Array:
    """Reduce the tokens of each layer: float32 [images, layers, positions, n]. Reduced tokens stay as they are."""
    return np.stack([reduce_tokens(tokens[:, layer]) for layer in range(tokens.shape[1])], axis=1)


def deep_layers(tokens: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the layers of tokens [images, layers, positions, n] that score out-of-distribution images."""
    # Towers other than InternVL's may give one layer.
    return tokens[:, min(FIRST_OOD_LAYER, tokens.shape[1] - 1) :]


def _ood_tokens(reduced: Array) -> HalfArray:
    """Concatenate the deep layers' tokens [images, positions, n], so that their covariance is included."""
    deep = deep_layers(reduced)
    # In half precision, as the reference images are kept: equal images stay equal.
    return deep.transpose(0, 2, 1, 3).reshape(len(deep), deep.shape[2], -1).astype(np.float16)


def _unit(vectors: Array) -> Array:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Array = vectors / np.maximum(lengths, 1e-12)
    return unit
