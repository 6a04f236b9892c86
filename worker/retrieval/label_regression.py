"""Fit the labels of the reference reports to the tokens of their images: a ridge regression, leave-one-out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

#: Regularisation of the regression, in units of the mean squared token.
RIDGE = 0.05
#: Labels of fewer images are ignored: the direction would describe one patient.
MIN_IMAGES_PER_LABEL = 3
#: Shares of the reference patients without a label and with it whose scores its threshold lies between. Measured on 400
#: chest phantoms beside 480 reference chests: of 574 findings 97.9 % are above it, of absent ones 0.5 %. The point of
#: the highest sum of sensitivity and specificity has 97.6 % and 0.9 %.
MOST_WITHOUT, MOST_WITH = 0.95, 0.90


class LabelScores(NamedTuple):
    """Labels of a reference set, the threshold of each and the shares of the patches in its score.

    *shares* is [images, patches, labels], float32.
    """

    names: tuple[str, ...]
    thresholds: Array
    shares: Array


class Regression(NamedTuple):
    """Labels of a ridge regression, its weights [features, labels] and the threshold of each label's score."""

    names: tuple[str, ...]
    weights: Array
    thresholds: Array


def ridge_regression(features: Sequence[Array], labels: Sequence[Collection[str]], owners: Sequence[str]) -> Regression:
    """Fit a ridge regression from features to labels of images, in its dual form; *owners* are their patients."""
    fitted = labels[: len(features)]
    counts = Counter(name for names in fitted for name in set(names))
    names = sorted(name for name, count in counts.items() if count >= MIN_IMAGES_PER_LABEL)
    if not names:
        return Regression((), np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
    inputs = np.stack(features)
    present = np.array([[name in image for name in names] for image in fitted])
    targets = present.astype(np.float32) - present.mean(axis=0, dtype=np.float32)
    kernel = inputs @ inputs.T / inputs.shape[1]
    kernel[np.diag_indices_from(kernel)] += RIDGE * np.trace(kernel) / len(kernel)
    inverse = np.linalg.inv(kernel)
    dual = inverse @ targets
    # Each patient left out: in-sample scores would overweight the labels that are hard to predict.
    patients = np.array(owners[: len(fitted)])
    rows = [np.flatnonzero(patients == owner) for owner in np.unique(patients)]
    predicted = targets.copy()
    for own in rows:
        predicted[own] -= np.linalg.solve(inverse[np.ix_(own, own)], dual[own])
    unit = predicted.std(axis=0) + 1e-6
    weights = (inputs.T @ dual / inputs.shape[1] / unit).astype(np.float32)
    # As a study is scored: by the image that shows the label most. A label need not be visible in all of its images.
    highest = np.stack([predicted[own].max(axis=0) for own in rows]) / unit
    with_label = np.stack([present[own].any(axis=0) for own in rows])
    thresholds = [_separating(scores, has) for scores, has in zip(highest.T, with_label.T, strict=True)]
    return Regression(tuple(names), weights, np.array(thresholds, np.float32))


def _separating(scores: npt.NDArray[np.floating], has: npt.NDArray[np.bool_]) -> float:
    """Return the score midway between nearly all patients without a label and nearly all patients with it."""
    without = scores[~has] if not has.all() else scores
    return float((np.quantile(without, MOST_WITHOUT) + np.quantile(scores[has], 1 - MOST_WITH)) / 2)
