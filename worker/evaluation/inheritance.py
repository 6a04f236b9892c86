"""Measure which findings a checkpoint copies from the cases in its prompt, for genuine images and for negatives.

A report inherits a finding if it affirms one that the quoted cases have and the image has not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from worker.findings.labeller import present
from worker.phantoms.cases import CATALOGUE, UNCLASSIFIED
from worker.phantoms.draw.negatives import HELD_OUT, TRAINED
from worker.training.training_cases import (
    FAMILIES,
    NEGATIVE,
    RARE,
    Pool,
    Sample,
    Share,
    case_of,
    make_pool,
    rare_findings,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from worker.evaluation.checkpoint_evaluator import CheckpointEvaluator, EncodedPool
    from worker.prompting.report import QuotedCase

    Cases = dict[int, list[QuotedCase]]

#: Share of negatives whose quoted reports have rare findings.
RARE_QUOTED = 0.5


def inherited(
    evaluator: CheckpointEvaluator, encoded: EncodedPool, samples: Sequence[int], family: str = "chest"
) -> dict[str, float]:
    """Return the shares of genuine images whose report inherits a finding: from the nearest cases and from wrong ones.

    Wrong cases have no rare finding of the image. They are random or rare, and quoted in three ways: as a worker quotes
    them, without cases below the minimum similarity; all of them, with their own similarities; or disguised, with those
    of the nearest cases. Beside the shares: how many of the wrong cases a worker quotes.
    """
    reference_set = encoded.reference_sets[family]

    def similar(cases: Cases) -> Cases:
        return {n: reference_set.similar(quoted) for n, quoted in cases.items()}

    nearest = {n: reference_set.quote_nearest(n) for n in samples}
    shares = {"nearest": _inherited(evaluator, encoded, nearest, similar(nearest))}
    for name in ("random", "rare") if family == "chest" else ("random",):
        wrong, disguised = (
            {n: _wrong_cases(evaluator, encoded, n, family, rare=name == "rare", disguised=hide) for n in samples}
            for hide in (False, True)
        )
        shares[f"{name}, all quoted"] = _inherited(evaluator, encoded, wrong, wrong)
        shares[name] = _inherited(evaluator, encoded, wrong, similar(wrong))
        shares[f"{name}, quoted"] = round(_count(similar(wrong)) / _count(wrong), 4)
        shares[f"{name}, disguised"] = _inherited(evaluator, encoded, disguised, disguised)
    return shares


def _wrong_cases(
    evaluator: CheckpointEvaluator, encoded: EncodedPool, sample: int, family: str, *, rare: bool, disguised: bool
) -> list[QuotedCase]:
    """Wrong cases without a rare finding of the sample."""
    own = rare_findings(case_of(encoded.pool.samples[sample]))
    reference_set = encoded.reference_sets[family]
    return reference_set.quote_wrong(sample, evaluator.rng, rare=rare, disguised=disguised, excluded=own)


def _count(cases: Cases) -> int:
    return sum(map(len, cases.values()))


def _inherited(evaluator: CheckpointEvaluator, encoded: EncodedPool, cases: Cases, quoted: Cases) -> float:
    """Share of the reports, written with *quoted* in the prompt, that affirm a finding which only *cases* have."""
    texts = evaluator.write(encoded, list(quoted), quoted.__getitem__)
    findings = [_findings(encoded.pool.samples[number]) for number in cases]
    return _share(texts, list(cases.values()), findings)


def _findings(sample: Sample) -> set[str]:
    """Findings that a report of a sample may affirm; for an unlabelled one also "unclassified abnormality"."""
    names = {finding.name for finding in case_of(sample).findings}
    return names | ({UNCLASSIFIED} if sample.unlabelled else set())


def _share(texts: list[str], quoted: list[list[QuotedCase]], findings: list[set[str]]) -> float:
    inherits = [
        bool((_names(text) & set().union(*(_names(case.report) for case in cases))) - names)
        for text, cases, names in zip(texts, quoted, findings, strict=True)
    ]
    return round(float(np.mean(inherits)), 4)


def _names(text: str) -> set[str]:
    return {label.finding for label in present(text)}


def by_family(evaluator: CheckpointEvaluator) -> dict[str, dict[str, float]]:
    """Return the shares of genuine images of each family, of chests with a rare finding and with a distractor."""
    size = evaluator.size
    shares = [Share(family, size.others, mixed=False) for family in CATALOGUE if family != "chest"]
    chests = Share("chest", size.chests), Share("chest", size.rare * len(RARE), rare=1 / len(RARE))
    distractors = Share("chest", size.rare, distractor=1.0)
    encoded = evaluator.encode(make_pool([*shares, *chests, distractors], seed=evaluator.seed + 6))
    samples = encoded.pool.samples
    groups = {family: [n for n in encoded.pool.of(family) if not samples[n].unlabelled] for family in CATALOGUE}
    rows = {family: inherited(evaluator, encoded, numbers, family) for family, numbers in groups.items()}
    rare = [number for number, sample in enumerate(samples) if sample.rare]
    distractor = [number for number, sample in enumerate(samples) if sample.unlabelled and not sample.rare]
    return {
        **rows,
        "chest, rare": inherited(evaluator, encoded, rare),
        "chest, distractor": inherited(evaluator, encoded, distractor),
    }


def rejection(evaluator: CheckpointEvaluator) -> dict[str, dict[str, Any]]:
    """Return the figures of images presented as a family they are not of: by that family and by their type."""
    rng = np.random.default_rng(evaluator.seed + 4)
    count = evaluator.size.negatives
    images = {name: np.stack([paint(rng) for _ in range(count)]) for name, paint in {**TRAINED, **HELD_OUT}.items()}
    for family in CATALOGUE:
        pool = make_pool([Share(family, count)], seed=evaluator.seed + 5)
        images[family] = pool.images[[sample.rows[0] for sample in pool.samples]]
    return {
        claimed: {name: _rejected(evaluator, these, claimed) for name, these in images.items() if name != claimed}
        for claimed in CATALOGUE
    }


def _rejected(evaluator: CheckpointEvaluator, images: npt.NDArray[np.uint8], claimed: str) -> dict[str, float]:
    """Shares that claim or inherit a finding, with three disguised cases: for the model alone, and after rejection."""
    count = len(images)
    encoded = evaluator.encode(_unlabelled_pool(images), claimed=claimed)
    reference_set = encoded.reference_sets[claimed]
    quoted = {
        number: reference_set.quote_wrong(number, evaluator.rng, rare=number < count * RARE_QUOTED, disguised=True)
        for number in range(count)
    }
    texts = evaluator.write(encoded, list(quoted), quoted.__getitem__, claimed=claimed)
    no_findings: list[set[str]] = [set()] * count
    in_distribution = encoded.scores <= evaluator.stats[claimed].threshold
    accepted = [text if inside else "" for text, inside in zip(texts, in_distribution, strict=True)]
    return {
        "claimed": _claimed(texts),
        "inherited": _share(texts, list(quoted.values()), no_findings),
        "in_distribution": round(float(in_distribution.mean()), 4),
        "claimed_after_rejection": _claimed(accepted),
        "inherited_after_rejection": _share(accepted, list(quoted.values()), no_findings),
    }


def _unlabelled_pool(images: npt.NDArray[np.uint8]) -> Pool:
    """Pool of single images without findings."""
    count = len(images)
    samples = [Sample(NEGATIVE, None, (row,)) for row in range(count)]
    patches, labels = np.zeros((count, 64, 1), np.bool_), np.zeros((count, 1), np.bool_)
    return Pool(samples, images, patches, labels, np.full(count, FAMILIES.index(NEGATIVE), np.int64))


def _claimed(texts: Sequence[str]) -> float:
    return round(float(np.mean([bool(_names(text)) for text in texts])), 4)
