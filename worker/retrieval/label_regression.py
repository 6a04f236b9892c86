"""Fit the labels of the reference reports to the tokens of their images: a ridge regression, leave-one-out.

The regression of all images but some differs from that of all by a product of small matrices (see FittedImages), so
that the scores of a study are those of a regression without the cases that its report quotes.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

#: Regularisations of the regression, in units of the mean squared token. The reference set's own patients, each scored
#: without itself, decide between them (docs/measurements/2026-11-29-grounding-quiet.md): slices of few heads need more
#: than radiographs of many chests.
RIDGES = (0.05, 0.2, 0.5, 1.0)
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
#: Cases that a report quotes, as PRELIM_RETRIEVED_CASES by default: the thresholds are those of scores without as many.
QUOTED = 3
#: Images whose part of the regression is computed at once: bounds the memory beside the result.
BLOCK = 256


class LabelScores(NamedTuple):
    """Labels of a reference set, their thresholds as in Regression, and the shares of the patches in each score.

    *shares* is [images, patches, labels], float32. *left_out* is the number of reference images that the regression
    was computed without; None if the snapshot, of an earlier release, cannot leave any out.
    """

    names: tuple[str, ...]
    thresholds: Array
    omission_thresholds: Array
    shares: Array
    left_out: int | None = None


class FittedImages:
    """Contribution of each reference image to the regression, by which images are left out of it exactly.

    `rows` is a structured array, one row an image: `owner`, the patient; `dual` [labels], its dual weights in units of
    each label's standard deviation; `direction` [features], float16, and `inverse` [images]: its rows of the inverse
    kernel times the features, and of the inverse kernel. Mapped from a file, a row is read when it is left out.
    """

    def __init__(self, rows: npt.NDArray[Any], path: Path | None = None) -> None:
        self.rows = rows
        #: The file that the rows are mapped from.
        self.path = path
        self._owners = np.array(rows["owner"])

    @classmethod
    def of(cls, inputs: Array, inverse: npt.NDArray[np.floating], dual: Array, owners: Sequence[str]) -> Self:
        """Return the contributions of images with features *inputs* [images, features]."""
        count, features = inputs.shape
        fields = [("owner", "S64"), ("dual", "f4", dual.shape[1:]), ("direction", "f2", features)]
        rows = np.empty(count, [*fields, ("inverse", "f4", count)])
        rows["owner"], rows["dual"], rows["inverse"] = np.array(owners, "S64"), dual, inverse
        for start in range(0, count, BLOCK):
            rows["direction"][start : start + BLOCK] = inverse[start : start + BLOCK] @ inputs
        return cls(rows)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Map the file that `save` wrote into memory."""
        return cls(np.load(path, mmap_mode="r"), path)

    def save(self, path: Path) -> None:
        """Write to a .npy file; one that is mapped from a file is linked."""
        if self.path is None:
            np.save(path, self.rows)
        else:
            os.link(self.path, path)

    def change_without(self, owners: Collection[str]) -> tuple[Array | None, int]:
        """Return what leaving out the images of *owners* adds to the weights [features, labels], and their number.

        With A the inverse kernel and S the images left out, the dual weights change by -A[:, S] A[S, S]^-1 dual[S].
        """
        own = np.flatnonzero(np.isin(self._owners, np.array(sorted(owners), "S64")))
        if not own.size or own.size == len(self.rows):
            # Without any image there is no regression to compare with.
            return None, 0
        rows = self.rows[own]
        dual = np.linalg.solve(rows["inverse"][:, own].astype(np.float64), rows["dual"].astype(np.float64))
        directions = rows["direction"].astype(np.float32)
        change: Array = -(directions.T @ dual.astype(np.float32)) / np.float32(directions.shape[1])
        return change, len(own)


class Regression(NamedTuple):
    """Labels of a ridge regression, its weights [features, labels] and the thresholds of each label's score.

    A score below *thresholds* speaks against the finding; nan if too few patients have it. A score that reaches
    *omission_thresholds* suggests a finding that a text does not mention; infinite if none does so reliably.
    """

    names: tuple[str, ...]
    weights: Array
    thresholds: Array
    omission_thresholds: Array
    #: None without labels, and unless they are to be kept.
    images: FittedImages | None = None


def ridge_regression(
    features: Sequence[Array],
    labels: Sequence[Collection[str]],
    owners: Sequence[str],
    *,
    keep_images: bool = False,
) -> Regression:
    """Fit a ridge regression from features to labels of images, in its dual form; *owners* are their patients.

    *keep_images* to leave images out later. Without any label if too few images have one, or if all features are 0.
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
    patients = np.array(owners[: len(fitted)])
    rows = [np.flatnonzero(patients == owner) for owner in np.unique(patients)]
    ridge, inverse, dual, alone = _cross_validated(inputs @ inputs.T / inputs.shape[1], targets, rows)
    # Each patient left out: in-sample scores would overweight the labels that are hard to predict.
    unit = alone.std(axis=0) + 1e-6
    weights = (inputs.T @ dual / inputs.shape[1] / unit).astype(np.float32)
    # As a study is scored: without the cases that it quotes.
    quoted = _quoted(alone / unit, (targets - ridge * dual) / unit, rows)
    left_out = [np.concatenate([own, *others]) for own, others in zip(rows, quoted, strict=True)]
    scores = _scores_without(left_out, rows, targets, inverse, dual) / unit
    images = FittedImages.of(inputs, inverse, dual / unit, list(patients)) if keep_images else None
    return Regression(tuple(names), weights, *_thresholds_of_labels(scores, present, rows), images)


class _Fit(NamedTuple):
    """A regression in its dual form, and the scores of all images, each patient's without its own images."""

    ridge: float
    inverse: Array
    dual: Array
    alone: Array


def _cross_validated(kernel: Array, targets: Array, rows: Sequence[npt.NDArray[np.intp]]) -> _Fit:
    """Return the fit, of those with RIDGES, that predicts patients best who are left out; *rows* are their images."""
    # Each label has the same weight, however rare it is.
    variance = np.maximum((targets**2).mean(axis=0), 1e-12)
    fits = (_fit(kernel, targets, rows, part) for part in RIDGES)
    return min(fits, key=lambda fit: float((((targets - fit.alone) ** 2).mean(axis=0) / variance).mean()))


def _fit(kernel: Array, targets: Array, rows: Sequence[npt.NDArray[np.intp]], part: float) -> _Fit:
    """Return the fit with the regularisation *part* of the mean of the kernel's diagonal."""
    ridge = part * float(np.trace(kernel)) / len(kernel)
    system = kernel + np.float32(ridge) * np.eye(len(kernel), dtype=np.float32)
    inverse = np.linalg.inv(system).astype(np.float32, copy=False)
    dual = inverse @ targets
    return _Fit(ridge, inverse, dual, _scores_without(rows, rows, targets, inverse, dual))


def _scores_without(
    left_out: Sequence[npt.NDArray[np.intp]],
    rows: Sequence[npt.NDArray[np.intp]],
    targets: Array,
    inverse: npt.NDArray[np.floating],
    dual: npt.NDArray[np.floating],
) -> Array:
    """Return the scores of all images; those of a patient by the regression without the images *left_out* for it.

    *rows* are the images of each patient, with which its *left_out* begin.
    """
    scores = targets.copy()
    for own, gone in zip(rows, left_out, strict=True):
        scores[own] -= np.linalg.solve(inverse[np.ix_(gone, gone)], dual[gone])[: len(own)]
    return scores


def _quoted(
    alone: npt.NDArray[np.floating], fitted: npt.NDArray[np.floating], rows: Sequence[npt.NDArray[np.intp]]
) -> Iterator[list[npt.NDArray[np.intp]]]:
    """Yield for each patient the rows of the QUOTED patients whose cases a report of its images would quote.

    By the cosine of the labels' scores, which lead the vectors of a search: *alone* of images scored without the
    patient, as a study's, *fitted* of the reference images; *rows* are those of each patient.
    """
    queries, known = (_directions(np.stack([scores[own].mean(axis=0) for own in rows])) for scores in (alone, fitted))
    count = max(min(QUOTED, len(rows) - 2), 0)
    for number, query in enumerate(queries):
        similarity = known @ query
        similarity[number] = -np.inf
        yield [rows[other] for other in np.argsort(-similarity)[:count]]


def _directions(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    unit: npt.NDArray[np.floating] = scores / np.maximum(np.linalg.norm(scores, axis=1, keepdims=True), 1e-12)
    return unit


def _without_labels() -> Regression:
    return Regression((), np.zeros((0, 0), np.float32), *np.zeros((2, 0), np.float32))


def _thresholds_of_labels(
    scores: Array, present: npt.NDArray[np.bool_], rows: Sequence[npt.NDArray[np.intp]]
) -> tuple[Array, Array]:
    """Return the thresholds of all labels, and those for omissions, from the *scores* of the patients' images.

    As in a study, by the image that shows the label most: a label need not be visible in all images of a patient.
    """
    highest = np.stack([scores[own].max(axis=0) for own in rows])
    with_label = np.stack([present[own].any(axis=0) for own in rows])
    pairs = [_thresholds(each, has) for each, has in zip(highest.T, with_label.T, strict=True)]
    thresholds, of_omissions = np.array(pairs, np.float32).T
    return thresholds, of_omissions


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
