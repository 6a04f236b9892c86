"""Figures from pairs of texts, with bootstrap confidence intervals; offline.

Words are lower-cased and separated by white space in all word figures; docs/decisions/text-metrics.md compares.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from rapidfuzz.distance import LCSseq, Levenshtein
from sacrebleu.metrics.bleu import BLEU

from worker.evaluation.sentence_figures import contradicting, sentences_right
from worker.findings.labeller import Label, present

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: Resamples of the cases for a 95 % interval.
RESAMPLES = 500
#: Pairs of texts whose word figures are kept: more than one run has.
MAX_CACHED_TEXTS = 16_384
# The effective order concerns only the score of a single sentence, which is not used.
_BLEU = BLEU(lowercase=True, tokenize="none", smooth_method="none", effective_order=True)


@dataclass(frozen=True, slots=True)
class Pair:
    """A reference report and a written report: texts, and the labels that each affirms."""

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
    """A figure and its 95 % bootstrap interval; nan if undefined."""

    value: float
    low: float
    high: float


def finding_f1(pairs: Sequence[Pair]) -> float:
    """Micro F1 over findings, without side and zone."""
    return _micro(({label.finding for label in p.wanted}, {label.finding for label in p.got}) for p in pairs)


def strict_f1(pairs: Sequence[Pair]) -> float:
    """Micro F1 over finding, side and zone together."""
    return _micro(({label.strict for label in p.wanted}, {label.strict for label in p.got}) for p in pairs)


def macro_f1(pairs: Sequence[Pair]) -> float:
    """Mean of the F1 of each finding that occurs in the references."""
    scores = f1_by_finding(pairs).values()
    return float(np.mean([score for score, _ in scores])) if scores else math.nan


def f1_by_finding(pairs: Sequence[Pair]) -> dict[str, tuple[float, int]]:
    """Strict F1 of each finding in the references, and the number of reports with it."""
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
    """Share with the same sides, left, right or both, of the findings in both texts with a side in the reference."""
    same = [written == side for pair in pairs for side, written in _sides(pair)]
    return float(np.mean(same)) if same else math.nan


def _sides(pair: Pair) -> Iterable[tuple[set[str], set[str]]]:
    """Yield the sides of each finding that both texts affirm, of the reference and of the written report."""
    for name in {label.finding for label in pair.wanted} & {label.finding for label in pair.got}:
        wanted, got = ({label.side for label in side if label.finding == name} for side in (pair.wanted, pair.got))
        if wanted != {""}:
            yield wanted, got


def sizes(pairs: Sequence[Pair]) -> float:
    """Share with the same size, of the findings in both texts on the same side, with a size in the reference."""
    same = [written == size for pair in pairs for size, written in _sizes(pair)]
    return float(np.mean(same)) if same else math.nan


def _sizes(pair: Pair) -> Iterable[tuple[set[str], set[str]]]:
    wanted, got = _by_place(pair.wanted), _by_place(pair.got)
    for place in wanted.keys() & got.keys():
        if wanted[place] != {""}:
            yield wanted[place], got[place]


def _by_place(labels: Iterable[Label]) -> dict[tuple[str, str], set[str]]:
    """Return the sizes of each finding and side."""
    places: dict[tuple[str, str], set[str]] = defaultdict(set)
    for label in labels:
        places[label.finding, label.side].add(label.size)
    return places


def normality(pairs: Sequence[Pair]) -> float:
    """Share of reports that agree with the reference on whether there is any finding."""
    return float(np.mean([bool(pair.wanted) == bool(pair.got) for pair in pairs]))


def exact_set(pairs: Sequence[Pair]) -> float:
    """Share of reports with exactly the findings of the reference, with side and zone."""
    return float(np.mean([{x.strict for x in p.wanted} == {x.strict for x in p.got} for p in pairs]))


def hallucinated(pairs: Sequence[Pair]) -> float:
    """Share of written findings that the reference does not have on any side."""
    invented = [label.finding not in {wanted.finding for wanted in pair.wanted} for pair in pairs for label in pair.got]
    return float(np.mean(invented)) if invented else 0.0


def bleu4(pairs: Sequence[Pair]) -> float:
    """Corpus BLEU up to four words, one reference, no smoothing (Papineni et al. 2002)."""
    counts = np.sum([_bleu_counts(pair.reference, pair.written) for pair in pairs], axis=0).tolist()
    score = BLEU.compute_bleu(counts[0:4], counts[4:8], counts[8], counts[9], smooth_method="none")
    return float(score.score) / 100


# The bootstrap asks for the same texts hundreds of times; sacrebleu's own corpus score would count them every time.
@lru_cache(maxsize=MAX_CACHED_TEXTS)
def _bleu_counts(reference: str, written: str) -> tuple[int, ...]:
    """Matching and total n-grams for n = 1 to 4, then the lengths of both texts in words."""
    score = _BLEU.sentence_score(written, [reference])
    return (*score.counts, *score.totals, score.sys_len, score.ref_len)


def rouge_l(pairs: Sequence[Pair]) -> float:
    """Mean F of the longest common subsequence of words (Lin 2004), beta 1."""
    return float(np.mean([_rouge(pair.reference, pair.written) for pair in pairs]))


@lru_cache(maxsize=MAX_CACHED_TEXTS)
def _rouge(reference: str, written: str) -> float:
    wanted, got = _words(reference), _words(written)
    return 2 * LCSseq.similarity(wanted, got) / (len(wanted) + len(got)) if wanted and got else 0.0


def edit_distance(pairs: Sequence[Pair]) -> float:
    """Mean number of word edits from the written report to the reference, per word of the reference."""
    return float(np.mean([_edits(pair.reference, pair.written) for pair in pairs]))


@lru_cache(maxsize=MAX_CACHED_TEXTS)
def _edits(reference: str, written: str) -> float:
    wanted = _words(reference)
    return Levenshtein.distance(wanted, _words(written)) / max(len(wanted), 1)


def _words(text: str) -> list[str]:
    return text.lower().split()


def support_at(quoted: Sequence[Sequence[str]], pairs: Sequence[Pair], count: int) -> float:
    """Share of written findings that one of the first *count* quoted reports affirms."""
    supported = []
    for reports, pair in zip(quoted, pairs, strict=True):
        known = {label.finding for report in reports[:count] for label in present(report)}
        supported += [label.finding in known for label in pair.got]
    return float(np.mean(supported)) if supported else math.nan


#: Figures of a run, in the order of the table.
FIGURES: dict[str, Callable[[Sequence[Pair]], float]] = {
    "strict_f1": strict_f1,
    "finding_f1": finding_f1,
    "macro_f1": macro_f1,
    "laterality": laterality,
    "sizes": sizes,
    "sentences_right": sentences_right,
    "contradicting": contradicting,
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
    """Return the figure with its percentile interval over resampled cases."""
    # Not scipy.stats.bootstrap: it needs two cases, and one resample without the figure makes the interval nan.
    rng = np.random.default_rng(seed)
    values = [figure([pairs[row] for row in rng.integers(len(pairs), size=len(pairs))]) for _ in range(resamples)]
    low, high = np.nanpercentile(values, [2.5, 97.5]) if not np.isnan(values).all() else (math.nan, math.nan)
    return Interval(figure(pairs), float(low), float(high))
