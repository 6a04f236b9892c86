"""`python -m worker.evaluation.phantom_figures`: the figures of the model card, on phantoms not used in training.

`prelim evaluate` measures the whole way through DICOM files, and is slower.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from worker.evaluation import inheritance, planted_errors, text_metrics
from worker.evaluation.checkpoint_evaluator import SEED, CheckpointEvaluator, Size, no_cases
from worker.phantoms import grammar
from worker.phantoms.cases import CATALOGUE
from worker.phantoms.phantoms import TRAINING, WIDER, Variation
from worker.training.demo_model import DemoModel
from worker.training.train import CHECKPOINT
from worker.training.training_cases import RARE, Sample, Share, case_of, make_pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from worker.evaluation.checkpoint_evaluator import EncodedPool
    from worker.evaluation.text_metrics import Pair
    from worker.training.reference_set import ReferenceSet


def measure(model: DemoModel, size: Size, *, seed: int = SEED) -> dict[str, Any]:
    """Return all figures of the model card."""
    evaluator = CheckpointEvaluator(model, size, seed)
    return {
        "reading": reading(evaluator, TRAINING),
        "reading_wider": reading(evaluator, WIDER),
        "retrieval": retrieval(evaluator),
        "inherited": inheritance.by_family(evaluator),
        "rejection": inheritance.rejection(evaluator),
        "errors": _error_recall(evaluator),
    }


def reading(
    evaluator: CheckpointEvaluator, variation: Variation, families: Sequence[str] = tuple(CATALOGUE)
) -> dict[str, Any]:
    """Return the figures of each family without reference cases, under *variation*."""
    size = evaluator.size
    shares = [Share(f, size.chests if f == "chest" else size.others, mixed=False) for f in families]
    encoded = evaluator.encode(make_pool(shares, seed=evaluator.seed + 2, variation=variation))
    return {
        family: {
            **_figures(evaluator.pairs(encoded, encoded.pool.of(family), no_cases)),
            **_rejected(evaluator, encoded, family),
        }
        for family in families
    }


def _rejected(evaluator: CheckpointEvaluator, encoded: EncodedPool, family: str) -> dict[str, Any]:
    """Share of genuine studies that would be rejected: those whose every image is out of distribution."""
    threshold = evaluator.stats[family].threshold
    rows = [list(encoded.pool.samples[number].rows) for number in encoded.pool.of(family)]
    rejected = [bool((encoded.scores[images] > threshold).all()) for images in rows]
    return {"rejected": round(float(np.mean(rejected)), 4), "threshold": round(threshold, 3)}


def _figures(pairs: list[Pair]) -> dict[str, Any]:
    figures = {name: round(figure(pairs), 4) for name, figure in text_metrics.FIGURES.items()}
    interval = text_metrics.bootstrap(text_metrics.strict_f1, pairs, resamples=200)
    weakest = sorted((score, name) for name, (score, _) in text_metrics.f1_by_finding(pairs).items())[:3]
    return {
        "cases": len(pairs),
        **figures,
        "strict_f1_interval": [round(interval.low, 4), round(interval.high, 4)],
        "weakest": {name: round(score, 3) for score, name in weakest},
    }


def retrieval(evaluator: CheckpointEvaluator) -> dict[str, Any]:
    """Return the effect of reference cases on rare and on common findings."""
    size = evaluator.size
    shares = [Share("chest", size.rare * len(RARE), rare=1 / len(RARE)), Share("chest", size.chests // 2)]
    encoded = evaluator.encode(make_pool(shares, seed=evaluator.seed + 3))
    reference_set, samples = encoded.reference_sets["chest"], encoded.pool.samples
    rare = [number for number, sample in enumerate(samples) if sample.rare]
    common = [number for number, sample in enumerate(samples) if not sample.rare]
    alone = evaluator.pairs(encoded, [*rare, *common], no_cases)
    near = evaluator.pairs(
        encoded, [*rare, *common], lambda number: reference_set.similar(reference_set.quote_nearest(number))
    )
    split = len(rare)
    scores = _first_scores(encoded)
    return {
        "rare_cases": len(rare),
        "common_cases": len(common),
        "min_similarity": round(reference_set.min_similarity, 3),
        "recall_at_3": {name: round(_recall(reference_set, samples, rare, name), 3) for name in RARE},
        "rare_f1_alone": {"all": _rare_f1(alone, RARE), **{name: _rare_f1(alone, [name]) for name in RARE}},
        "rare_f1_near": {"all": _rare_f1(near, RARE), **{name: _rare_f1(near, [name]) for name in RARE}},
        "common_f1_alone": round(text_metrics.strict_f1(alone[split:]), 4),
        "common_f1_near": round(text_metrics.strict_f1(near[split:]), 4),
        "genuine_rejected": round(float((scores > evaluator.stats["chest"].threshold).mean()), 4),
        "scores": _quantiles(scores),
    }


def _recall(reference_set: ReferenceSet, samples: list[Sample], rare: list[int], name: str) -> float:
    """Share of the samples with a rare finding for which one of the three nearest cases has it."""
    with_it = [number for number in rare if _has(case_of(samples[number]), name)]
    hits = [any(_has(reference_set.cases[row], name) for row in reference_set.nearest(n)[0]) for n in with_it]
    return float(np.mean(hits))


def _has(case: Any, name: str) -> bool:
    return any(finding.name == name for finding in case.findings)


def _rare_f1(pairs: list[Pair], names: Sequence[str]) -> float:
    return round(text_metrics.f1_of(pairs, names), 4)


def _first_scores(encoded: EncodedPool) -> npt.NDArray[np.float32]:
    """Score of the first image of each sample."""
    scores: npt.NDArray[np.float32] = encoded.scores[[sample.rows[0] for sample in encoded.pool.samples]]
    return scores


def _quantiles(scores: npt.NDArray[np.float32]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(scores, q)), 2) for q in (1, 50, 99, 100)}


def _error_recall(evaluator: CheckpointEvaluator) -> dict[str, Any]:
    cases = [case for sample in evaluator.references.samples[::7] if (case := sample.case)]
    recall = planted_errors.recall([grammar.write(case, evaluator.rng) for case in cases])
    return {name: {"recall": round(share, 4), "planted": count} for name, (share, count) in recall.items()}


def main(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint directory.")] = CHECKPOINT,
    out: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the phantoms.")] = SEED,
    share: Annotated[float, typer.Option(help="Share of the default number of cases.")] = 1.0,
) -> None:
    """Measure a demo checkpoint and print its figures as JSON."""
    full = Size()
    size = replace(full, **{name: max(int(getattr(full, name) * share), 8) for name in Size.__dataclass_fields__})
    figures = json.dumps(measure(DemoModel.load(checkpoint), size, seed=seed), indent=1)
    if out:
        out.write_text(figures + "\n", encoding="utf-8")
    print(figures)  # noqa: T201 - the command's output


if __name__ == "__main__":
    typer.run(main)
