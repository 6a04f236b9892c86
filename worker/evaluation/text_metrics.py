"""Figures from pairs of texts, with bootstrap confidence intervals; no downloads, no lists of stop words."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from worker.findings.labeller import Label, present

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: Resamplings of the cases for a 95 % interval.
RESAMPLES = 500
#: Texts whose words are counted once.
REMEMBERED = 16_384


@dataclass(frozen=True, slots=True)
class Pair:
    """A reference report and what was written, as texts and as the labels they affirm."""

    reference: str
    written: str
    wanted: frozenset[Label]
    got: frozenset[Label]

    @classmethod
    def of(cls, reference: str, written: str) -> Pair:
        """Label both texts."""
        return cls(reference, written, frozenset(present(reference)), frozenset(present(written)))


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % bootstrap interval; nan where it is not defined."""

    value: float
    low: float
    high: float


def finding_f1(pairs: Sequence[Pair]) -> float:
    """Micro F1 over findings, wherever they are."""
    return _micro(({label.finding for label in p.wanted}, {label.finding for label in p.got}) for p in pairs)


def strict_f1(pairs: Sequence[Pair]) -> float:
    """Micro F1 over finding, side and zone together."""
    return _micro(({label.strict for label in p.wanted}, {label.strict for label in p.got}) for p in pairs)


def macro_f1(pairs: Sequence[Pair]) -> float:
    """Mean of the F1 of each finding that occurs in the references."""
    scores = f1_by_finding(pairs).values()
    return float(np.mean([score for score, _ in scores])) if scores else math.nan


def f1_by_finding(pairs: Sequence[Pair]) -> dict[str, tuple[float, int]]:
    """Of each finding in the references: strict F1 and how many reports have it."""
    names = sorted({label.finding for pair in pairs for label in pair.wanted})
    return {name: (_f1_of(pairs, {name}), _count(pairs, name)) for name in names}


def f1_of(pairs: Sequence[Pair], names: Iterable[str]) -> float:
    """Micro F1 over the named findings alone."""
    return _f1_of(pairs, set(names))


def _f1_of(pairs: Sequence[Pair], names: set[str]) -> float:
    return _micro(
        (
            {label.strict for label in pair.wanted if label.finding in names},
            {label.strict for label in pair.got if label.finding in names},
        )
        for pair in pairs
    )


def _count(pairs: Sequence[Pair], name: str) -> int:
    return sum(any(label.finding == name for label in pair.wanted) for pair in pairs)


def _micro(sets: Iterable[tuple[set[object], set[object]]]) -> float:
    hit = wanted = got = 0
    for want, have in sets:
        hit, wanted, got = hit + len(want & have), wanted + len(want), got + len(have)
    return 2 * hit / (wanted + got) if wanted + got else math.nan


def laterality(pairs: Sequence[Pair]) -> float:
    """Of the findings named once in both texts with a side in the reference: how many have the same side."""
    same = [told == side for pair in pairs for side, told in _sides(pair)]
    return float(np.mean(same)) if same else math.nan


def _sides(pair: Pair) -> Iterable[tuple[str, str]]:
    wanted, got = (Counter(label.finding for label in side) for side in (pair.wanted, pair.got))
    for label in pair.wanted:
        if label.side and wanted[label.finding] == got[label.finding] == 1:
            yield label.side, next(told.side for told in pair.got if told.finding == label.finding)


def normality(pairs: Sequence[Pair]) -> float:
    """How many reports agree on whether there is any finding."""
    return float(np.mean([bool(pair.wanted) == bool(pair.got) for pair in pairs]))


def exact_set(pairs: Sequence[Pair]) -> float:
    """How many reports have exactly the reference's findings, with side and zone."""
    return float(np.mean([{x.strict for x in p.wanted} == {x.strict for x in p.got} for p in pairs]))


def hallucinated(pairs: Sequence[Pair]) -> float:
    """Of the findings written: how many the reference has not at all, on any side."""
    invented = [label.finding not in {wanted.finding for wanted in pair.wanted} for pair in pairs for label in pair.got]
    return float(np.mean(invented)) if invented else 0.0


def bleu4(pairs: Sequence[Pair]) -> float:
    """Corpus BLEU up to four words, one reference, no smoothing (Papineni et al. 2002)."""
    logs = []
    for n in range(1, 5):
        hit = total = 0
        for pair in pairs:
            wanted, got = _grams(pair.reference, n), _grams(pair.written, n)
            hit += sum((wanted & got).values())
            total += sum(got.values())
        if not hit:
            return 0.0
        logs.append(math.log(hit / total))
    reference = sum(len(pair.reference.split()) for pair in pairs)
    written = sum(len(pair.written.split()) for pair in pairs)
    return math.exp(sum(logs) / 4 + min(0.0, 1 - reference / written))


# The bootstrap asks for the same texts hundreds of times.
@lru_cache(maxsize=REMEMBERED)
def _grams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = text.lower().split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def rouge_l(pairs: Sequence[Pair]) -> float:
    """Mean F of the longest common subsequence of words (Lin 2004), beta 1."""
    return float(np.mean([_rouge(pair.reference, pair.written) for pair in pairs]))


@lru_cache(maxsize=REMEMBERED)
def _rouge(reference_text: str, written_text: str) -> float:
    reference, written = reference_text.lower().split(), written_text.lower().split()
    if not reference or not written:
        return 0.0
    row = [0] * (len(written) + 1)
    for word in reference:
        diagonal = 0
        for column, other in enumerate(written, start=1):
            diagonal, row[column] = row[column], (diagonal + 1 if word == other else max(row[column], row[column - 1]))
    return 2 * row[-1] / (len(reference) + len(written))


def edit_distance(pairs: Sequence[Pair]) -> float:
    """Mean word edits from the written report to the reference, for each word of the reference."""
    return float(np.mean([_edits(pair.reference, pair.written) for pair in pairs]))


@lru_cache(maxsize=REMEMBERED)
def _edits(reference_text: str, written_text: str) -> float:
    reference, written = reference_text.lower().split(), written_text.lower().split()
    row = list(range(len(written) + 1))
    for number, word in enumerate(reference, start=1):
        diagonal, row[0] = row[0], number
        for column, other in enumerate(written, start=1):
            replaced = diagonal + (word != other)
            diagonal, row[column] = row[column], min(replaced, row[column] + 1, row[column - 1] + 1)
    return row[-1] / max(len(reference), 1)


def support_at(quoted: Sequence[Sequence[str]], pairs: Sequence[Pair], count: int) -> float:
    """Of the findings written: how many are affirmed by one of the first *count* retrieved reports."""
    supported = []
    for reports, pair in zip(quoted, pairs, strict=True):
        known = {label.finding for report in reports[:count] for label in present(report)}
        supported += [label.finding in known for label in pair.got]
    return float(np.mean(supported)) if supported else math.nan


#: The figures of a run, in the order of the table.
FIGURES: dict[str, Callable[[Sequence[Pair]], float]] = {
    "strict_f1": strict_f1,
    "finding_f1": finding_f1,
    "macro_f1": macro_f1,
    "laterality": laterality,
    "normality": normality,
    "exact_set": exact_set,
    "hallucinated": hallucinated,
    "bleu4": bleu4,
    "rouge_l": rouge_l,
    "edit_distance": edit_distance,
}


def bootstrap(
    figure: Callable[[Sequence[Pair]], float], pairs: Sequence[Pair], *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """The figure with its percentile interval over resampled cases."""
    rng = np.random.default_rng(seed)
    values = [figure([pairs[row] for row in rng.integers(len(pairs), size=len(pairs))]) for _ in range(resamples)]
    low, high = np.nanpercentile(values, [2.5, 97.5]) if not np.isnan(values).all() else (math.nan, math.nan)
    return Interval(figure(pairs), float(low), float(high))
