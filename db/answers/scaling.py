"""Scaling of the confidence of answers, fitted on known studies, and the limit below which the images do not tell."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from db.states import Calibration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Limit without a calibration: an answer that is at least as probable as all others together.
DEFAULT_LIMIT = 0.5
#: Smallest distance of a probability from 0 and 1.
EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Scaling:
    """Platt scaling, logit(p) -> slope x logit(p) + offset; with several options the slope is 1 / temperature."""

    slope: float = 1.0
    offset: float = 0.0
    #: Confidence below which the text is "cannot tell from these images".
    min_confidence: float = DEFAULT_LIMIT

    def of_one(self, probability: float) -> float:
        """Return the probability of an answer that is right or wrong."""
        bounded = min(max(probability, EPSILON), 1 - EPSILON)
        logit = self.slope * math.log(bounded / (1 - bounded)) + self.offset
        # Without overflow for either sign.
        return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))

    def of_several(self, log_probs: Sequence[float]) -> list[float]:
        """Return the probabilities of options of which one is right; they sum to 1. The offset is not used."""
        best = max(log_probs)
        weights = [math.exp(self.slope * (one - best)) for one in log_probs]
        return [weight / math.fsum(weights) for weight in weights]


@dataclass(frozen=True, slots=True)
class ScalingOfTask:
    """Scalings of the kinds of answers of a task; a kind without one is not scaled, and uncalibrated."""

    kinds: Mapping[str, Scaling] = field(default_factory=dict)
    #: What, how many, where and from which seed.
    case_set: Mapping[str, Any] = field(default_factory=dict)
    #: Why there is none.
    reason: str = "`prelim calibrate --task` was never run here"
    #: Standing of a kind without one.
    otherwise: Calibration = Calibration.UNCALIBRATED
    #: By which stored answers name it; empty if there is none.
    id: str = ""

    def of(self, kind: str) -> tuple[Scaling, Calibration]:
        """Return the scaling of a kind and its standing."""
        if kind in self.kinds:
            return self.kinds[kind], Calibration.CERTIFIED
        return Scaling(), self.otherwise

    def figures(self, kind: str) -> dict[str, Any]:
        """Return what is stored with an answer of this kind."""
        scaling, standing = self.of(kind)
        certified = standing == Calibration.CERTIFIED
        return {
            "id": self.id if certified else "",
            "status": standing,
            "kind": kind,
            **asdict(scaling),
            "case_set": dict(self.case_set) if certified else None,
            "reason": "" if certified else self._reason(kind),
        }

    def _reason(self, kind: str) -> str:
        """Return why a kind has no scaling."""
        if self.kinds:
            return f"the calibration of this task has no figures for answers of the kind {kind.replace('_', ' ')}"
        return self.reason


UNSCALED = ScalingOfTask()
