"""Find reference cases whose report does not agree with their own images, before they are indexed.

The report of another patient under a case's images would be quoted for every similar study. The labels of a report are
predicted from the images by a regression fitted to the cases of other patients (worker.retrieval.label_regression).
Measured on phantoms: docs/measurements/2026-11-28-index.md.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from db.studies.modalities import family_of
from worker.retrieval.features import MAX_FITTED_IMAGES, reduced_tokens
from worker.retrieval.label_regression import ridge_regression

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt

    from worker.retrieval.archive import ArchivedCase

    Array = npt.NDArray[np.float32]
    Mask = npt.NDArray[np.bool_]

#: Patients with a label, and without it, below which the label is not measurable: nothing is said about it.
MIN_PATIENTS = 8
#: Parts of the patients that are predicted from the others; of large families fewer, because each takes a fit.
FOLDS, FOLDS_OF_LARGE, LARGE = 8, 3, 1000
#: Places of a score between the median of the cases without a label (0) and of those with it (1): below the first the
#: images lack a label of the report, above the second they show one that is not in the report.
MISSING, SEEN = 0.3, 0.7
#: Standard deviations, estimated from the median absolute deviation, by which such a score must also lie below the
#: median of the cases with the label, or above that of those without it. Places alone left out 21 of 80 head MRs that
#: agree, because labels of eight to twelve patients are predicted poorly.
DEVIATIONS_MISSING, DEVIATIONS_SEEN = 2.0, 4.0
#: A standard deviation in median absolute deviations.
NORMAL = 1.4826
#: Keeps a standard deviation positive where all images are equal.
EPSILON = 1e-3


class _Seen(NamedTuple):
    """A case: id, owner, labels of its report, and the features [images, n] of its images."""

    case_id: str
    owner: str
    labels: frozenset[str]
    features: Array


def disagreements(cases: Iterable[ArchivedCase]) -> dict[str, str]:
    """Return for each case whose report and images disagree its id and the reason."""
    families: dict[str, list[_Seen]] = defaultdict(list)
    for one in cases:
        features = reduced_tokens(one.tokens)[:, -1].reshape(len(one.tokens), -1)
        families[family_of(one.case.modality)].append(
            _Seen(one.case.case_id, one.case.owner, frozenset(one.labels), features)
        )
    return {case_id: reason for family in families.values() for case_id, reason in _of_family(family)}


def _of_family(cases: Sequence[_Seen]) -> Iterator[tuple[str, str]]:
    labels = _measurable(cases)
    if not labels or all((case.features == cases[0].features[0]).all() for case in cases):
        return
    present = np.array([[label in case.labels for label in labels] for case in cases])
    lacking, showing = _evidence(cases, _predicted(cases, labels), present)
    for case, has, lacks, shows in zip(cases, present, lacking, showing, strict=True):
        missing = [label for label, bad in zip(labels, has & lacks, strict=True) if bad]
        seen = [label for label, bad in zip(labels, ~has & shows, strict=True) if bad]
        if missing or seen:
            yield case.case_id, _reason(missing, seen)


def _reason(missing: Sequence[str], seen: Sequence[str]) -> str:
    parts = [f"the images do not show {', '.join(missing)}"] * bool(missing)
    parts += [f"the images show {', '.join(seen)}, which the report does not affirm"] * bool(seen)
    return f"report and images disagree: {'; '.join(parts)}"


def _measurable(cases: Sequence[_Seen]) -> list[str]:
    """Return the labels with enough patients with and without them."""
    patients: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        for label in case.labels:
            patients[label].add(case.owner)
    total = len({case.owner for case in cases})
    return sorted(name for name, own in patients.items() if MIN_PATIENTS <= len(own) <= total - MIN_PATIENTS)


def _predicted(cases: Sequence[_Seen], labels: Sequence[str]) -> Array:
    """Return the score of each label in each case [cases, labels], fitted without the case's patient; NaN if unfit."""
    images = sum(len(case.features) for case in cases)
    owners = np.unique([case.owner for case in cases], return_inverse=True)[1]
    folds = owners % (FOLDS if images <= LARGE else FOLDS_OF_LARGE)
    mean, std = _moments(cases)
    scores = np.full((len(cases), len(labels)), np.nan, np.float32)
    for fold in np.unique(folds):
        known = [case for case, own in zip(cases, folds == fold, strict=True) if not own]
        features = [(image - mean) / std for case in known for image in case.features]
        of_image = [case for case in known for _ in case.features]
        chosen = np.unique(np.linspace(0, len(of_image) - 1, min(len(of_image), MAX_FITTED_IMAGES)).astype(int))
        fitted = ridge_regression(
            [features[row] for row in chosen],
            [of_image[row].labels for row in chosen],
            [of_image[row].owner for row in chosen],
        )
        if not fitted.names:
            continue
        columns = [fitted.names.index(label) if label in fitted.names else -1 for label in labels]
        for row in np.flatnonzero(folds == fold).tolist():
            # By the image that shows the label most, as a study is scored.
            highest = (((cases[row].features - mean) / std) @ fitted.weights).max(axis=0)
            scores[row] = [highest[column] if column >= 0 else np.nan for column in columns]
    return scores


def _moments(cases: Sequence[_Seen]) -> tuple[Array, Array]:
    images = np.concatenate([case.features for case in cases])
    return images.mean(axis=0), images.std(axis=0) + np.float32(EPSILON + 0.05 * images.std())


def _evidence(cases: Sequence[_Seen], scores: Array, present: Mask) -> tuple[Mask, Mask]:
    """Return whether the images of each case clearly lack each label, and whether they clearly show it."""
    owners = np.array([case.owner for case in cases])
    (without, spread_without), (with_label, spread_with) = (
        _centres(scores, mask, owners) for mask in (~present, present)
    )
    # A label that images with and without it do not differ in is not measurable.
    apart = with_label - without
    apart[~(apart > EPSILON)] = np.nan
    places = (scores - without) / apart
    lacking = (places < MISSING) & (with_label - scores > DEVIATIONS_MISSING * spread_with)
    return lacking, (places > SEEN) & (scores - without > DEVIATIONS_SEEN * spread_without)


def _centres(scores: Array, mask: Mask, owners: npt.NDArray[np.str_]) -> tuple[Array, Array]:
    """Return median and spread of each column where *mask* is set, one case of each patient; NaN if a fold has none."""
    medians, spreads = [], []
    for column, chosen in zip(scores.T, mask.T, strict=True):
        rows = np.flatnonzero(chosen)
        values = column[rows[np.unique(owners[rows], return_index=True)[1]]]
        medians.append(np.median(values))
        spreads.append(NORMAL * np.median(np.abs(values - medians[-1])))
    return np.array(medians, np.float32), np.array(spreads, np.float32)
