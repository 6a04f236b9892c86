"""Figures of answers and choices: accuracy, calibration error, AUROC of the confidence, arbitration."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.table import Table

from db.answers.answer import CANNOT_TELL, NONE_OF_THESE, Diagnosis
from worker.evaluation.answers.asked_cases import REMOVED
from worker.evaluation.grounding_figures import calibration_error
from worker.pipeline.possible_answers import NO, is_same

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from db.answers.answer import Answer
    from worker.evaluation.answers.asked_cases import AskedCase

#: Kinds of questions about what the images do not show.
NOT_THERE = ("absent", "unknown")
#: Kinds of questions with a closed answer.
CLOSED = ("presence", "side", "which", "normal")


class Arbitration(NamedTuple):
    """The same choice with no diagnoses of other cases and specialists in the prompt, all wrong and all right ones."""

    no: Diagnosis
    wrong: Diagnosis
    right: Diagnosis


@dataclass(frozen=True, slots=True)
class Answered:
    """An inquiry and its answer; *arbitration* of a choice with a right and a wrong option."""

    inquiry: AskedCase
    answer: Answer | Diagnosis
    arbitration: Arbitration | None = None

    @property
    def right(self) -> bool:
        """True if the answer is right."""
        return is_right(self.inquiry, self.answer)


def is_right(inquiry: AskedCase, answer: Answer | Diagnosis) -> bool:
    """Return whether an answer is right; what is not there is rightly denied, and not told."""
    if isinstance(answer, Diagnosis):
        if NONE_OF_THESE in inquiry.right:
            return not answer.chosen
        chosen, right = set(answer.chosen), set(inquiry.right)
        # Of exclusive options *right* are alternatives; of several, each must be chosen.
        fits = chosen == right if inquiry.several else chosen <= right
        return not answer.cannot_tell and bool(chosen) and fits
    if any(is_same(right, CANNOT_TELL) for right in inquiry.right):
        return answer.cannot_tell or (inquiry.kind in NOT_THERE and is_same(answer.text, NO))
    return not answer.cannot_tell and any(is_same(right, answer.text) for right in inquiry.right)


@dataclass(slots=True)
class AnswerFigures:
    """Figures of a run; nan where nothing was measured."""

    inquiries: int
    #: Share of the answers that are not "cannot tell".
    told: float
    accuracy: float
    #: Of closed questions, or of choices with a right option.
    closed_accuracy: float
    #: Share of the inquiries about what is not there, or without a right option, that are answered so.
    not_there: float
    ece: float
    auroc: float
    #: Answers that are none of the options.
    outside: int
    #: Share of the right choices that stay right with all labels wrong, and of the wrong ones that right ones correct.
    upheld: float = math.nan
    corrected: float = math.nan
    #: Accuracy with no labels, all wrong and all right ones.
    by_labels: dict[str, float] = field(default_factory=dict)
    by_kind: dict[str, tuple[float, int]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return plain values, None for nan."""
        plain = asdict(self)
        return {name: None if value != value else value for name, value in plain.items()}  # noqa: PLR0124 - nan

    def tables(self) -> list[Table]:
        """Return the figures, and the accuracy of each kind, as tables."""
        figures = Table("figure", "value")
        for name in ("inquiries", "told", "accuracy", "closed_accuracy", "not_there", "ece", "auroc", "outside"):
            figures.add_row(name.replace("_", " "), _show(getattr(self, name)))
        for name in ("upheld", "corrected"):
            figures.add_row(name, _show(getattr(self, name)))
        for name, share in self.by_labels.items():
            figures.add_row(f"accuracy, {name} labels", _show(share))
        kinds = Table("kind", "inquiries", "right")
        for name, (share, count) in sorted(self.by_kind.items()):
            kinds.add_row(name or "-", str(count), _show(share))
        return [figures, kinds]


def _show(value: float) -> str:
    return str(value) if isinstance(value, int) else "-" if math.isnan(value) else f"{value:.3f}"


def figures_of(answered: Sequence[Answered], failed: Sequence[str] = ()) -> AnswerFigures:
    """Return the figures of *answered*; *failed* are inquiries without an answer."""
    told = [one for one in answered if not one.answer.cannot_tell]
    # "cannot tell" has the confidence of the answer that it replaced, which is not the one that is judged.
    sure = [(one.answer.confidence, one.right) for one in told if one.answer.confidence is not None]
    arbitrated = [tuple(is_right(one.inquiry, each) for each in one.arbitration) for one in answered if one.arbitration]
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for one in answered:
        by_kind[one.inquiry.kind].append(one.right)
    return AnswerFigures(
        inquiries=len(answered),
        told=len(told) / len(answered) if answered else math.nan,
        accuracy=_share(one.right for one in answered),
        closed_accuracy=_share(one.right for one in answered if _is_closed(one)),
        not_there=_share(one.right for one in answered if one.inquiry.kind in (*NOT_THERE, REMOVED)),
        ece=calibration_error(sure),
        auroc=auroc(sure),
        outside=sum(_is_outside(one) for one in answered),
        upheld=_share(wrong for first, wrong, _ in arbitrated if first),
        corrected=_share(right for first, _, right in arbitrated if not first),
        by_labels={
            name: _share(one[number] for one in arbitrated)
            for number, name in enumerate(Arbitration._fields)
            if arbitrated
        },
        by_kind={kind: (_share(right), len(right)) for kind, right in by_kind.items()},
        failed=list(failed),
    )


def _is_closed(one: Answered) -> bool:
    if isinstance(one.answer, Diagnosis):
        return one.inquiry.kind != REMOVED
    return one.inquiry.kind in CLOSED or (not one.inquiry.kind and _is_word(one.inquiry.right))


def _is_word(right: Sequence[str]) -> bool:
    return any(is_same(one, word) for one in right for word in ("yes", "no"))


def _is_outside(one: Answered) -> bool:
    return isinstance(one.answer, Diagnosis) and not set(one.answer.chosen) <= set(one.inquiry.options)


def _share(values: Iterable[bool]) -> float:
    counted = list(values)
    return sum(counted) / len(counted) if counted else math.nan


def auroc(sure: Sequence[tuple[float, bool]]) -> float:
    """Return the probability that a right answer has a higher confidence than a wrong one; nan without both."""
    right = np.array([confidence for confidence, correct in sure if correct])
    wrong = np.array([confidence for confidence, correct in sure if not correct])
    if not (len(right) and len(wrong)):
        return math.nan
    differences = right[:, None] - wrong
    return float(((differences > 0) + (differences == 0) / 2).mean())
