"""Right and wrong sentences of written reports, and reports that contradict themselves."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from worker.findings.labeller import Label, sentences
from worker.grounding.checks.contradictions import negations_agree, sections_agree, sizes_agree
from worker.grounding.checks.draft import DraftPart

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from worker.evaluation.text_metrics import Pair

#: Texts whose sentences are kept: more than one run has; the bootstrap asks for the same ones hundreds of times.
MAX_CACHED_TEXTS = 16_384


def is_right(label: Label, wanted: Collection[Label]) -> bool:
    """Return whether a written label agrees with those that the reference affirms.

    An affirmed one is wrong if no wanted one has its finding, with the same side and zone where both tell them; a
    denied one if a wanted one is in its place. An uncertain one is never wrong.
    """
    same = [other for other in wanted if other.finding == label.finding]
    if label.certainty == "present":
        return any(_agree(label.side, other.side) and _agree(label.zone, other.zone) for other in same)
    denied = any(label.side in ("", other.side) and label.zone in ("", other.zone) for other in same)
    return not (label.certainty == "absent" and denied)


def _agree(one: str, other: str) -> bool:
    return one == other or not (one and other)


def sentences_right(pairs: Sequence[Pair]) -> float:
    """Share of the written sentences with an affirmed or denied finding in which all findings are right."""
    right = [each for pair in pairs for each in _right(pair.written, pair.wanted)]
    return float(np.mean(right)) if right else math.nan


@lru_cache(maxsize=MAX_CACHED_TEXTS)
def _right(text: str, wanted: frozenset[Label]) -> tuple[bool, ...]:
    """Return for each sentence that affirms or denies a finding whether all its findings are right."""
    labels = ([mention.label for mention in sentence.mentions] for sentence in sentences(text))
    stated = (each for each in labels if any(label.certainty != "uncertain" for label in each))
    return tuple(all(is_right(label, wanted) for label in each) for each in stated)


def contradicting(pairs: Sequence[Pair]) -> float:
    """Share of written reports that contradict themselves."""
    return float(np.mean([bool(contradictions(pair.written)) for pair in pairs]))


@lru_cache(maxsize=MAX_CACHED_TEXTS)
def contradictions(text: str) -> tuple[str, ...]:
    """Return a sentence for each contradiction of a report: impression and findings, affirmed and denied, two sizes."""
    parts = {"findings": "", "impression": ""}
    for sentence in sentences(text):
        if sentence.section in parts:
            parts[sentence.section] += f"{sentence.text}\n"
    draft = DraftPart(parts["findings"], parts["impression"])
    found = [sections_agree(draft), negations_agree(draft), sizes_agree(draft)]
    return tuple(problem for problems in found if isinstance(problems, list) for problem in problems)
