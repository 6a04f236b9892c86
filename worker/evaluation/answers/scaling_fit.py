"""Fit the scaling of a confidence, and the limit above which the error of answers is bounded, by kind of answer.

The scaling is fitted on one half of the answers and the limit tested on the other, by learn-then-test as for findings
(worker.grounding.calibration): for a limit the hypothesis "the error of the answers told exceeds alpha" is rejected by
an exact binomial tail. The limits are tested in two fixed sequences, each with half of delta.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from db.answers.scaling import DEFAULT_LIMIT, EPSILON, Scaling
from worker.grounding.calibration import binomial_tail, needed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

#: Limits, each sequence in the order of the tests. Never below the default: a calibration lowers no limit.
SEQUENCES = ((DEFAULT_LIMIT,), (0.9, 0.8, 0.7, 0.6))
#: Slopes of a temperature: 1/30 to 30.
SLOPES = np.geomspace(1 / 30, 30, 121)
#: Newton steps of a regression with two parameters, halvings of one of them, and the ridge that keeps them finite.
STEPS, HALVINGS, RIDGE = 50, 30, 1e-6


@dataclass(frozen=True, slots=True)
class Told:
    """An answer that was told: its confidence without scaling, and whether it is right.

    Of a choice also *probabilities* of all options, none of them last, and the place of the right one.
    """

    confidence: float
    right: bool
    probabilities: Sequence[float] = ()
    answer: int = 0

    def scaled(self, scaling: Scaling) -> float:
        """Return its confidence after scaling."""
        if not self.probabilities:
            return scaling.of_one(self.confidence)
        return max(scaling.of_several([math.log(max(one, EPSILON)) for one in self.probabilities]))


@dataclass(frozen=True, slots=True)
class Fitted:
    """Scaling of a kind of answers; None if no limit bounds their error, and why."""

    scaling: Scaling | None
    reason: str = ""


def fitted(told: Sequence[Told], *, alpha: float, delta: float) -> Fitted:
    """Return the scaling fitted on a random half, with the lowest limit that bounds the error of the other."""
    # Not every other one: inquiries of two kinds may alternate in a file.
    mixed = [told[int(number)] for number in np.random.default_rng(0).permutation(len(told))]
    fit, test = mixed[::2], mixed[1::2]
    if not (fit and test):
        return Fitted(None, f"{len(told)} answers: at least 2 are needed")
    scaling = _temperature(fit) if fit[0].probabilities else _platt(fit)
    if scaling.slope <= 0:
        return Fitted(None, "the confidence of wrong answers is not below that of right ones")
    level = delta / len(SEQUENCES)
    limits = [limit for sequence in SEQUENCES for limit in _rejected(test, scaling, sequence, alpha, level)]
    if not limits:
        wrong, count = _count(test, scaling, DEFAULT_LIMIT)
        missing = max(needed(wrong, alpha, level) - count, 0) * 2
        return Fitted(
            None, f"{wrong} of {count} answers are wrong; {missing} more answers are needed, if no more are wrong"
        )
    return Fitted(replace(scaling, min_confidence=min(limits)))


def _rejected(
    test: Sequence[Told], scaling: Scaling, sequence: Sequence[float], alpha: float, level: float
) -> Iterator[float]:
    for limit in sequence:
        if binomial_tail(*_count(test, scaling, limit), alpha) > level:
            return
        yield limit


def _count(test: Sequence[Told], scaling: Scaling, limit: float) -> tuple[int, int]:
    """Return the number of wrong answers at a limit, and of all."""
    told = [one.right for one in test if one.scaled(scaling) >= limit]
    return told.count(False), len(told)


def _platt(fit: Sequence[Told]) -> Scaling:
    """Return slope and offset by logistic regression, with Platt's targets: they stay finite if all are right."""
    raw = np.clip([one.confidence for one in fit], EPSILON, 1 - EPSILON)
    right = np.array([one.right for one in fit])
    count = int(right.sum())
    targets = np.where(right, (count + 1) / (count + 2), 1 / (len(right) - count + 2))
    features = np.stack([np.log(raw / (1 - raw)), np.ones(len(raw))], axis=1)
    weights = np.array([1.0, 0.0])
    for _ in range(STEPS):
        shares = 1 / (1 + np.exp(-features @ weights))
        # The ridge pulls towards the identity.
        gradient = features.T @ (shares - targets) + RIDGE * (weights - [1.0, 0.0])
        curvature = (features * (shares * (1 - shares))[:, None]).T @ features + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        # Halved until the loss falls: from a wrong slope a whole step goes too far.
        lengths = (0.5**power for power in range(HALVINGS))
        before = _log_loss(features @ weights, targets)
        better = (weights - length * step for length in lengths)
        weights = next((one for one in better if _log_loss(features @ one, targets) < before), weights)
    return Scaling(float(weights[0]), float(weights[1]))


def _log_loss(logits: npt.NDArray[np.floating], targets: npt.NDArray[np.floating]) -> float:
    return float((np.logaddexp(0, logits) - targets * logits).sum())


def _temperature(fit: Sequence[Told]) -> Scaling:
    """Return the slope with the highest likelihood of the right options."""
    return min((Scaling(float(slope)) for slope in SLOPES), key=lambda scaling: _loss(fit, scaling))


def _loss(fit: Sequence[Told], scaling: Scaling) -> float:
    logs = [[math.log(max(one, EPSILON)) for one in told.probabilities] for told in fit]
    shares = [scaling.of_several(values)[told.answer] for values, told in zip(logs, fit, strict=True)]
    return -math.fsum(math.log(max(share, EPSILON)) for share in shares)
