"""Measure a demo checkpoint on phantoms it has never seen: reading, retrieval, inheritance, refusal.

By arrays, many at once: the same prompts, pictures and pooling as a worker's, without the DICOM files between.
`prelim evaluate` goes the whole way, more slowly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from deploy.demo import grammar
from deploy.demo.cases import CATALOGUE
from deploy.demo.curriculum import MODALITY
from deploy.demo.junk import HELD_OUT, TRAINED
from deploy.demo.neighbours import Shelf, shelve
from deploy.demo.phantoms import TRAINING, WIDER, Variation
from deploy.demo.pool import FAMILIES, JUNK, RARE, Item, Pool, Share, make_pool
from deploy.demo.train import CHECKPOINT, embed_items, reference_shares, usual_of
from worker import prompts
from worker.evaluation import errors, metrics
from worker.evaluation.labeller import present
from worker.evaluation.metrics import Pair
from worker.model.training import Example, Tokens, Trainee

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from worker.model.pooling import Usual

    #: The cases quoted for an item of a pool, by its number.
    Quote = Callable[[int], list[prompts.Case]]

#: Far from every seed of training.
SEED = 3_100_000


@dataclass(frozen=True, slots=True)
class Size:
    """How many cases of each kind."""

    chests: int = 400
    others: int = 80
    rare: int = 64
    junk: int = 40
    references: int = 3000


@dataclass(frozen=True, slots=True)
class Ready:
    """A pool that the tower has looked at."""

    pool: Pool
    tokens: Tokens
    shelves: dict[str, Shelf]
    z: npt.NDArray[np.float32]


class Ruler:
    """A checkpoint with a fresh reference set."""

    def __init__(self, trainee: Trainee, size: Size, seed: int = SEED) -> None:
        self.trainee, self.size, self.seed = trainee, size, seed
        self.rng = np.random.default_rng(seed)
        self.references = make_pool(reference_shares(size.references), seed=seed + 1)
        self.usual: dict[str, Usual] = usual_of(trainee, self.references)
        self.reference_vectors, _, _ = embed_items(trainee, self.references, self.usual)

    def look(self, pool: Pool, claimed: str = "") -> Ready:
        """Embed a pool; *claimed* is the family its pictures are said to be of."""
        vectors, tokens, z = embed_items(self.trainee, pool, self.usual, claimed)
        shelves = {}
        for family in [claimed] if claimed else CATALOGUE:
            there = self.references.of(family)
            here = list(range(len(pool.items))) if claimed else pool.of(family)
            cases = [case for number in there if (case := self.references.items[number].case) is not None]
            shelves[family] = shelve(cases, self.reference_vectors[there], here, vectors[here])
        return Ready(pool, Tokens.of(tokens), shelves, z)

    def write(self, ready: Ready, items: Sequence[int], quote: Quote, claimed: str = "") -> list[str]:
        """Reports of items, with the cases that *quote* gives."""
        examples = [self._example(ready.pool.items[number], quote(number), claimed) for number in items]
        return self.trainee.write(ready.tokens, examples)

    @staticmethod
    def _example(item: Item, cases: list[prompts.Case], claimed: str) -> Example:
        return Example(item.rows, prompts.report(*MODALITY[claimed or item.family], cases), "")

    def pairs(self, ready: Ready, items: Sequence[int], quote: Quote) -> list[Pair]:
        """References and reports of items."""
        references = [grammar.write(_case(ready.pool.items[number]), self.rng) for number in items]
        return [Pair.of(a, b) for a, b in zip(references, self.write(ready, items, quote), strict=True)]


def nobody(_: int) -> list[prompts.Case]:
    """No retrieved cases."""
    return []


def measure(trainee: Trainee, size: Size, *, seed: int = SEED) -> dict[str, Any]:
    """Every figure of the model card."""
    ruler = Ruler(trainee, size, seed)
    return {
        "reading": reading(ruler, TRAINING),
        "reading_wider": reading(ruler, WIDER),
        "retrieval": retrieval(ruler),
        "refusing": _refusing(ruler),
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
    """How many genuine studies would be refused: those whose every picture is strange."""
    limit = ruler.usual[family].limit
    refused = [bool((ready.z[list(ready.pool.items[number].rows)] > limit).all()) for number in items]
    return {"refused_by_gate": round(float(np.mean(refused)), 4), "gate_limit": round(limit, 3)}


def _figures(pairs: list[Pair]) -> dict[str, Any]:
    figures = {name: round(figure(pairs), 4) for name, figure in metrics.FIGURES.items()}
    interval = metrics.bootstrap(metrics.strict_f1, pairs, resamples=200)
    weakest = sorted((score, name) for name, (score, _) in metrics.f1_by_finding(pairs).items())[:3]
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
    alone, near = ruler.pairs(ready, everyone, nobody), ruler.pairs(ready, everyone, shelf.near)
    wrong, tempting = (
        {number: shelf.wrong(number, ruler.rng, rare=only_rare) for number in everyone} for only_rare in (False, True)
    )
    split = len(rare)
    return {
        "rare_cases": len(rare),
        "common_cases": len(common),
        "recall_at_3": {name: round(_recall(shelf, items, rare, name), 3) for name in RARE},
        "rare_f1_alone": {"all": _rare_f1(alone, RARE), **{name: _rare_f1(alone, [name]) for name in RARE}},
        "rare_f1_near": {"all": _rare_f1(near, RARE), **{name: _rare_f1(near, [name]) for name in RARE}},
        "common_f1_alone": round(metrics.strict_f1(alone[split:]), 4),
        "common_f1_near": round(metrics.strict_f1(near[split:]), 4),
        "inherited_wrong": _inherited(ruler, ready, {number: wrong[number] for number in common}),
        "inherited_wrong_rare": _inherited(ruler, ready, {number: tempting[number] for number in common}),
        "rare_inherited_wrong": _inherited(ruler, ready, {number: wrong[number] for number in rare}),
        "rare_inherited_wrong_rare": _inherited(ruler, ready, {number: tempting[number] for number in rare}),
        "genuine_refused_by_gate": round(float((_item_z(ready) > ruler.usual["chest"].limit).mean()), 4),
        "z": _quantiles(_item_z(ready)),
    }


def _recall(shelf: Shelf, items: list[Item], rare: list[int], name: str) -> float:
    """How often one of the three nearest has the rare finding."""
    with_it = [number for number in rare if _has(_case(items[number]), name)]
    hits = [any(_has(shelf.cases[row], name) for row in shelf.nearest[number][0]) for number in with_it]
    return float(np.mean(hits))


def _has(case: Any, name: str) -> bool:
    return any(finding.name == name for finding in case.findings)


def _rare_f1(pairs: list[Pair], names: Sequence[str]) -> float:
    return round(metrics.f1_of(pairs, names), 4)


def _inherited(ruler: Ruler, ready: Ready, quoted: dict[int, list[prompts.Case]]) -> float:
    """How many reports affirm a finding that the quoted cases have and the picture has not."""
    texts = ruler.write(ready, list(quoted), quoted.__getitem__)
    truths = [{finding.name for finding in _case(ready.pool.items[number]).findings} for number in quoted]
    return _share_inherited(texts, list(quoted.values()), truths)


def _share_inherited(texts: list[str], quoted: list[list[prompts.Case]], truths: list[set[str]]) -> float:
    inherited = [
        bool((_names(text) & set().union(*(_names(case.report) for case in cases))) - truth)
        for text, cases, truth in zip(texts, quoted, truths, strict=True)
    ]
    return round(float(np.mean(inherited)), 4)


def _names(text: str) -> set[str]:
    return {label.finding for label in present(text)}


def _refusing(ruler: Ruler) -> dict[str, Any]:
    """Pictures that are none, said to be chests, with three tempting reports: what is claimed, what the gate sees."""
    rng = np.random.default_rng(ruler.seed + 4)
    rows: dict[str, Any] = {}
    for name, paint in {**TRAINED, **HELD_OUT}.items():
        rows[name] = _refused(ruler, np.stack([paint(rng) for _ in range(ruler.size.junk)]))
    for family in CATALOGUE:
        if family != "chest":
            pool = make_pool([Share(family, ruler.size.junk)], seed=ruler.seed + 5)
            rows[f"{family} as chest"] = _refused(ruler, pool.pictures[[item.rows[0] for item in pool.items]])
    return rows


def _refused(ruler: Ruler, pictures: npt.NDArray[np.uint8]) -> dict[str, float]:
    count = len(pictures)
    items = [Item(JUNK, None, (row,)) for row in range(count)]
    nothing_there = np.zeros((count, 64, 1), np.bool_), np.zeros((count, 1), np.bool_)
    family = np.full(count, FAMILIES.index(JUNK), np.int64)
    ready = ruler.look(Pool(items, pictures, *nothing_there, family), claimed="chest")
    shelf = ready.shelves["chest"]
    quoted = {number: shelf.wrong(number, ruler.rng, rare=bool(number % 2)) for number in range(count)}
    texts = ruler.write(ready, list(quoted), quoted.__getitem__, claimed="chest")
    nothing: list[set[str]] = [set()] * count
    passed = ready.z <= ruler.usual["chest"].limit
    kept = [number for number in range(count) if passed[number]]
    with_gate = [bool(_names(texts[number])) for number in kept]
    return {
        "claimed_a_finding": round(float(np.mean([bool(_names(text)) for text in texts])), 4),
        "inherited": _share_inherited(texts, list(quoted.values()), nothing),
        "passed_the_gate": round(float(passed.mean()), 4),
        "claimed_with_gate": round(sum(with_gate) / count, 4),
        "z_least": round(float(ready.z.min()), 2),
    }


def _item_z(ready: Ready) -> npt.NDArray[np.float32]:
    """Of each item the z of its first picture."""
    return ready.z[[item.rows[0] for item in ready.pool.items]]


def _quantiles(z: npt.NDArray[np.float32]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(z, q)), 2) for q in (1, 50, 99, 100)}


def _error_recall(ruler: Ruler) -> dict[str, Any]:
    reports = [grammar.write(case, ruler.rng) for item in ruler.references.items[::7] if (case := item.case)]
    return {name: {"recall": round(r, 4), "planted": n} for name, (r, n) in errors.recall(reports).items()}


def _case(item: Item) -> Any:
    if item.case is None:
        raise ValueError("junk has no case")
    return item.case


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
