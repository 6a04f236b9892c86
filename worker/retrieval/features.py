"""Patch tokens of the vision tower -> a vector for the search, and how strange an image is.

The mean of the tokens says what kind of image it is and hides what is wrong with it. Here each token is first
compared with what is usual at its place: it is whitened with the mean and spread that a reference set shows there. Two
things are made of what sticks out. Where the reference cases have labels, a ridge regression from the whitened tokens
to the labels says which deviations matter: cases with the same rare finding lie together although nobody taught the
tower that finding. And the strangest tokens themselves are kept, for what no label names. The size of the deviations
tells an image of the kind from everything else.

Tokens are float arrays [images, layers, patches, channels], as `patch_tokens` takes them from an InternVL vision
tower; the first layer is the shallow one. A whole search: `fit` on the reference images of one kind, `embed` theirs
and the query's with it, inner product.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from db.errors import ConfigurationError
from worker.retrieval import out_of_distribution
from worker.retrieval.out_of_distribution import GRID, Gate, Moments, reduced

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

__all__ = ["GRID", "Usual", "embed", "fit", "least_similarity", "length", "z"]

#: How sharply the mean of the shallow layer turns to its strangest patches.
TEMPERATURE = 0.5
#: Reference images the regression is fitted on, the first ones: its matrix is that many on a side.
FITTED = 4000
#: Of the regression, in parts of the mean squared token.
RIDGE = 0.05
#: A label that fewer images have is left out: its direction would be one patient's.
LEAST_LABELLED = 3
#: Weight of the strangest tokens beside the labels.
UNLABELLED = 0.3
#: With cases of fewer patients nobody can say how similar two of them usually are.
ENOUGH_TO_COMPARE = 20
#: Reference cases, evenly chosen, that are compared with all others: medians need no more.
COMPARED = 500
#: More similarity is asked of no case: where most are alike, the few others are less like their neighbours than those.
SIMILAR_ENOUGH = 0.5
#: The first of the layers by which images of the kind are told from others. Measured on three: to the shallow one a
#: head upside down is a head; by the middle one alone every second MR of a head passes for a CT, by both deep ones none
#: does; the last alone knows only what the tower was asked, and lets some shuffled images pass.
FIRST_DEEP = 1


@dataclass(frozen=True, slots=True)
class Usual:
    """What is usual at each place of one kind of image, and what deviations mean.

    `mean` and `spread` [layers, patches, channels]; `gate` tells what is none of the kind; `weights` [features,
    labels], in units of each label's spread, no columns where the reference set has no labels.
    """

    mean: Array
    spread: Array
    gate: Gate
    images: int
    weights: Array

    @property
    def limit(self) -> float:
        """The z above which an image is none of the kind."""
        return self.gate.limit

    def save(self, path: Path) -> None:
        """Write to an .npz file."""
        own = {name: getattr(self, name) for name in ("mean", "spread", "weights")}
        np.savez(
            path, **own, pictures=self.images, **{f"gate_{name}": value for name, value in asdict(self.gate).items()}
        )

    @classmethod
    def load(cls, path: Path) -> Usual:
        """Read what `save` wrote; raises ConfigurationError where it cannot be read."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                gate = [stored[f"gate_{name}"] for name in ("mean", "spread", "metric")]
                limits = [float(stored[f"gate_{name}"]) for name in ("usual", "limit")]
                mean, spread, weights = stored["mean"], stored["spread"], stored["weights"]
                return cls(mean, spread, Gate(*gate, *limits), int(stored["pictures"]), weights)
        except (OSError, KeyError, ValueError) as error:
            raise ConfigurationError(f"{path.name} cannot be read: build the reference index again") from error


def fit(batches: Iterable[Array], labels: Sequence[Collection[str]] = ()) -> Usual:
    """What is usual in the images of *batches*, read once, and what their *labels* (one set an image) depend on.

    Raises ConfigurationError for fewer than two images.
    """
    moments = Moments()
    kept: list[Array] = []
    deep: list[npt.NDArray[np.float16]] = []
    for tokens in batches:
        for image in tokens:
            moments.add(image.astype(np.float64))
            kept.append(_deep(image[None])[0])
            if len(deep) < min(len(labels), FITTED):
                deep.append(image[-1].astype(np.float16))
    if moments.count < 2:  # noqa: PLR2004 - a spread needs two
        raise ConfigurationError("a kind of image needs two reference cases or more")
    mean, spread = moments.mean.astype(np.float32), moments.spread().astype(np.float32)
    features = [_features(((image.astype(np.float32) - mean[-1]) / spread[-1])[None])[0] for image in deep]
    return Usual(mean, spread, out_of_distribution.fit(kept), moments.count, _regression(features, labels))


def _regression(features: Sequence[Array], labels: Sequence[Collection[str]]) -> Array:
    """Weights [features, labels] of a ridge regression in its dual form; columns by the labels' names."""
    counts = Counter(name for told in labels[: len(features)] for name in set(told))
    names = sorted(name for name, count in counts.items() if count >= LEAST_LABELLED)
    if not names:
        return np.zeros((0, 0), np.float32)
    seen = np.stack(features)
    wanted = np.array([[name in told for name in names] for told in labels[: len(features)]], np.float32)
    wanted -= wanted.mean(axis=0)
    kernel = seen @ seen.T / seen.shape[1]
    kernel[np.diag_indices_from(kernel)] += RIDGE * np.trace(kernel) / len(kernel)
    inverse = np.linalg.inv(kernel)
    dual = inverse @ wanted
    # What each image would score without itself: in-sample scores would flatter the labels that are hard to see.
    spared = wanted - dual / np.diag(inverse)[:, None]
    weights: Array = (seen.T @ dual / seen.shape[1] / (spared.std(axis=0) + 1e-6)).astype(np.float32)
    return weights


def _features(white: Array) -> Array:
    """Whitened tokens of the last layer [n, patches, channels] as the regression sees them: [n, features]."""
    return reduced(white).reshape(len(white), -1)


def embed(tokens: Array, usual: Usual) -> Array:
    """A vector of length 1 for each image: float32 [images, labels + layers * channels]."""
    white = _whiten(tokens, usual)
    strange = UNLABELLED * _strangest(white)
    if not usual.weights.size:
        return _unit(strange).astype(np.float32)
    # Not brought to length 1: where no label speaks up, the strangest tokens decide.
    scores = _features(white[:, -1]) @ usual.weights / np.float32(np.sqrt(usual.weights.shape[1]))
    return _unit(np.concatenate([scores, strange], axis=1)).astype(np.float32)


def least_similarity(vectors: Array, owners: npt.NDArray[np.integer]) -> float:
    """The cosine from which a case is similar: halfway between any two reference cases and two nearest ones.

    *vectors* are those of all reference cases of a kind [cases, n], of length 1; the medians of both are meant.
    *owners* [cases] say whose they are: a patient's own are never quoted to him, and do not count. At most
    SIMILAR_ENOUGH; -1, which lets every case be similar, where the patients are too few to tell.
    """
    if len(np.unique(owners)) < ENOUGH_TO_COMPARE:
        return -1.0
    anyone, nearest = [], []
    for row in np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), COMPARED)).astype(int)):
        others = (vectors @ vectors[row])[owners != owners[row]]
        anyone.append(np.median(others))
        nearest.append(others.max())
    return min(float(np.median(anyone) + np.median(nearest)) / 2, SIMILAR_ENOUGH)


def length(usual: Usual) -> int:
    """How long the vectors are."""
    layers, _, channels = usual.mean.shape
    return int(usual.weights.shape[-1] + layers * channels)


def _strangest(white: Array) -> Array:
    norms = np.linalg.norm(white[:, 0], axis=-1) / np.sqrt(white.shape[-1])
    weights = np.exp((norms - norms.max(axis=1, keepdims=True)) / TEMPERATURE)
    weights /= weights.sum(axis=1, keepdims=True)
    parts = [_unit(np.einsum("np,npc->nc", weights, white[:, 0]))]
    for layer in range(1, white.shape[1]):
        strongest = np.abs(white[:, layer]).argmax(axis=1)
        parts.append(_unit(np.take_along_axis(white[:, layer], strongest[:, None], axis=1)[:, 0]))
    return _unit(np.concatenate(parts, axis=1))


def z(tokens: Array, usual: Usual) -> Array:
    """How strange each image is, in units of the usual: float32 [images]; above `usual.limit` none of the kind."""
    return out_of_distribution.z(_deep(tokens), usual.gate)


def _deep(tokens: Array) -> Array:
    """What the gate looks at: the deep layers side by side, so that it knows how they vary together."""
    # Towers built otherwise than InternVL's give one layer.
    layers = range(min(FIRST_DEEP, tokens.shape[1] - 1), tokens.shape[1])
    return np.concatenate([reduced(tokens[:, layer]) for layer in layers], axis=-1)


def _whiten(tokens: Array, usual: Usual) -> Array:
    white: Array = (tokens.astype(np.float32) - usual.mean) / usual.spread
    return white


def _unit(vectors: Array) -> Array:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Array = vectors / np.maximum(lengths, 1e-12)
    return unit
