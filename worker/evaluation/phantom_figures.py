"""`python -m worker.evaluation.phantom_figures`: every figure of the model card, on phantoms unseen in training.

`prelim evaluate` goes the whole way through DICOM files, more slowly.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from worker.evaluation import inheritance, planted_errors, text_metrics
from worker.evaluation.checkpoint_evaluator import SEED, Ruler, Size, nobody
from worker.phantoms import grammar
from worker.phantoms.cases import CATALOGUE
from worker.phantoms.phantoms import TRAINING, WIDER, Variation
from worker.training.samples import RARE, Item, Share, case_of, make_pool
from worker.training.train import CHECKPOINT
from worker.training.training import Trainee

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from worker.evaluation.checkpoint_evaluator import Ready
    from worker.evaluation.text_metrics import Pair
    from worker.training.reference_set import Shelf


def measure(trainee: Trainee, size: Size, *, seed: int = SEED) -> dict[str, Any]:
    """Every figure of the model card."""
    ruler = Ruler(trainee, size, seed)
    return {
        "reading": reading(ruler, TRAINING),
        "reading_wider": reading(ruler, WIDER),
        "retrieval": retrieval(ruler),
        "inherited": inheritance.by_kind(ruler),
        "refusing": inheritance.refusing(ruler),
        "errors": _error_recall(ruler),
    }


def reading(ruler: Ruler, variation: Variation, families: Sequence[str] = tuple(CATALOGUE)) -> dict[str, Any]:
    """Without retrieval: the figures of each family, under *variation*."""
    size = ruler.size
    shares = [Share(f, size.chests if f == "chest" else size.others, mixed=False) for f in families]
    ready = ruler.look(make_pool(shares, seed=ruler.seed + 2, variation=variation))
    return {
        family: {
            **_figures(ruler.pairs(ready, ready.pool.of(family), nobody)),
            **_gate(ruler, ready, family, ready.pool.of(family)),
        }
        for family in families
    }


def _gate(ruler: Ruler, ready: Ready, family: str, items: list[int]) -> dict[str, Any]:
    """How many genuine studies would be refused: those whose every image is strange."""
    limit = ruler.usual[family].threshold
    refused = [bool((ready.z[list(ready.pool.items[number].rows)] > limit).all()) for number in items]
    return {"refused_by_gate": round(float(np.mean(refused)), 4), "gate_limit": round(limit, 3)}


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


def retrieval(ruler: Ruler) -> dict[str, Any]:
    """What retrieved cases are worth for rare findings, and what they cost for common ones."""
    size = ruler.size
    shares = [Share("chest", size.rare * len(RARE), rare=1 / len(RARE)), Share("chest", size.chests // 2)]
    ready = ruler.look(make_pool(shares, seed=ruler.seed + 3))
    shelf, items = ready.shelves["chest"], ready.pool.items
    rare = [number for number, item in enumerate(items) if item.rare]
    common = [number for number, item in enumerate(items) if not item.rare]
    everyone = [*rare, *common]
    alone = ruler.pairs(ready, everyone, nobody)
    near = ruler.pairs(ready, everyone, lambda number: shelf.similar(shelf.near(number)))
    split = len(rare)
    return {
        "rare_cases": len(rare),
        "common_cases": len(common),
        "min_similarity": round(shelf.min_similarity, 3),
        "recall_at_3": {name: round(_recall(shelf, items, rare, name), 3) for name in RARE},
        "rare_f1_alone": {"all": _rare_f1(alone, RARE), **{name: _rare_f1(alone, [name]) for name in RARE}},
        "rare_f1_near": {"all": _rare_f1(near, RARE), **{name: _rare_f1(near, [name]) for name in RARE}},
        "common_f1_alone": round(text_metrics.strict_f1(alone[split:]), 4),
        "common_f1_near": round(text_metrics.strict_f1(near[split:]), 4),
        "genuine_refused_by_gate": round(float((_item_z(ready) > ruler.usual["chest"].threshold).mean()), 4),
        "z": _quantiles(_item_z(ready)),
    }


def _recall(shelf: Shelf, items: list[Item], rare: list[int], name: str) -> float:
    """How often one of the three nearest has the rare finding."""
    with_it = [number for number in rare if _has(case_of(items[number]), name)]
    hits = [any(_has(shelf.cases[row], name) for row in shelf.nearest(number)[0]) for number in with_it]
    return float(np.mean(hits))


def _has(case: Any, name: str) -> bool:
    return any(finding.name == name for finding in case.findings)


def _rare_f1(pairs: list[Pair], names: Sequence[str]) -> float:
    return round(text_metrics.f1_of(pairs, names), 4)


def _item_z(ready: Ready) -> npt.NDArray[np.float32]:
    """Of each item the z of its first image."""
    return ready.z[[item.rows[0] for item in ready.pool.items]]


def _quantiles(z: npt.NDArray[np.float32]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(z, q)), 2) for q in (1, 50, 99, 100)}


def _error_recall(ruler: Ruler) -> dict[str, Any]:
    reports = [grammar.write(case, ruler.rng) for item in ruler.references.items[::7] if (case := item.case)]
    return {name: {"recall": round(r, 4), "planted": n} for name, (r, n) in planted_errors.recall(reports).items()}


def main(
    checkpoint: Annotated[Path, typer.Option(help="Directory of the checkpoint.")] = CHECKPOINT,
    out: Annotated[Path | None, typer.Option(help="Write the figures here, too.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the phantoms.")] = SEED,
    share: Annotated[float, typer.Option(help="Part of the usual number of cases.")] = 1.0,
) -> None:
    """Measure a demo checkpoint and print its figures as JSON."""
    whole = Size()
    size = replace(whole, **{name: max(int(getattr(whole, name) * share), 8) for name in Size.__dataclass_fields__})
    figures = json.dumps(measure(Trainee.load(checkpoint), size, seed=seed), indent=1)
    if out:
        out.write_text(figures + "\n", encoding="utf-8")
    print(figures)  # noqa: T201 - the command's output


if __name__ == "__main__":
    typer.run(main)
