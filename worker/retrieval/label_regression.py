"""Fit the labels of the reference reports to the tokens of their images: a ridge regression, leave-one-out."""

from __future__ import annotations

import math
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
#: Labels of fewer patients have no threshold, and below the second number none for omissions: their scores do not
#: bound that of the next patient. Of the findings of 217 fresh phantoms 61 % reach their threshold if fewer than 5
#: reference patients have the label, 93 % with 5 to 7, 98 % with more; of absent ones 4, 9 and 0.6 %
#: (docs/measurements/2026-11-28-marks.md).
MIN_PATIENTS_PER_LABEL, MIN_PATIENTS_FOR_OMISSIONS = 5, 8
#: Shares of the reference patients without a label and with it whose scores its threshold lies between, at this part of
#: the way. Halfway to the lowest tenth, 18 instead of 12 of 478 right findings of 217 phantoms were flagged, and 393
#: instead of 391 of 399 wrong ones.
SHARE_WITHOUT, SHARE_WITH, PART = 0.95, 0.95, 0.3
#: The same for omissions, halfway to the highest score without the label.
SHARE_OF_OMISSIONS = 0.90
#: Share of the reference patients above the threshold for omissions that must have the label.
MIN_PRECISION = 0.95


class LabelScores(NamedTuple):
    """Labels of a reference set, their thresholds as in Regression, and the shares of the patches in each score.

    *shares* is [images, patches, labels], float32.
    """

    names: tuple[str, ...]
    thresholds: Array
    omission_thresholds: Array
    shares: Array


class Regression(NamedTuple):
    """Labels of a ridge regression, its weights [features, labels] and the thresholds of each label's score.

    A score below *thresholds* speaks against the finding; nan if too few patients have it. A score that reaches
    *omission_thresholds* suggests a finding that a text does not mention; infinite if none does so reliably.
    """

    names: tuple[str, ...]
    weights: Array
    thresholds: Array
    omission_thresholds: Array


def ridge_regression(features: Sequence[Array], labels: Sequence[Collection[str]], owners: Sequence[str]) -> Regression:
    """Fit a ridge regression from features to labels of images, in its dual form; *owners* are their patients.

    Without any label if too few images have one, or if all features are 0.
    """
    fitted = labels[: len(features)]
    counts = Counter(name for names in fitted for name in set(names))
    names = sorted(name for name, count in counts.items() if count >= MIN_IMAGES_PER_LABEL)
    if not names:
        return _without_labels()
    inputs = np.stack(features)
    if not inputs.any():
        # All images are equal: they show no label, and the kernel has no inverse.
        return _without_labels()
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
    thresholds = [_thresholds(scores, has) for scores, has in zip(highest.T, with_label.T, strict=True)]
    return Regression(tuple(names), weights, *np.array(thresholds, np.float32).T)


def _without_labels() -> Regression:
    return Regression((), np.zeros((0, 0), np.float32), *np.zeros((2, 0), np.float32))


def _thresholds(scores: npt.NDArray[np.floating], has: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return the threshold of a label and that for omissions; *scores* of patients, each scored without itself."""
    if min(has.sum(), (~has).sum()) < MIN_PATIENTS_PER_LABEL:
        return math.nan, math.inf
    below, low = np.quantile(scores[~has], SHARE_WITHOUT), np.quantile(scores[has], 1 - SHARE_WITH)
    # Where the two overlap, halfway.
    threshold = float(below + (PART if low > below else 0.5) * (low - below))
    # Most findings that a text leaves out are absent: the score must exceed those of all patients without the label.
    low = np.quantile(scores[has], 1 - SHARE_OF_OMISSIONS)
    higher = max(threshold, float(scores[~has].max() + low) / 2)
    above = has[scores >= higher]
    reliable = has.sum() >= MIN_PATIENTS_FOR_OMISSIONS and above.any() and above.mean() >= MIN_PRECISION
    return threshold, higher if reliable else math.inf
