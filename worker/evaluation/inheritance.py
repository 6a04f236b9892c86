"""What a checkpoint takes over from cases quoted beside an image: of genuine images, and of images that are none.

A report inherits where it affirms a finding that the quoted cases have and the image has not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from worker.findings.labeller import present
from worker.phantoms.cases import CATALOGUE, UNCLASSIFIED
from worker.phantoms.draw.negatives import HELD_OUT, TRAINED
from worker.training.samples import FAMILIES, JUNK, RARE, Item, Pool, Share, case_of, make_pool, rare_findings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from worker.evaluation.checkpoint_evaluator import Ready, Ruler
    from worker.prompting.report import QuotedCase

#: Of images that are none, in this share are the quoted reports those of rare findings.
TEMPTING = 0.5


def inherited(ruler: Ruler, ready: Ready, items: Sequence[int], family: str = "chest") -> dict[str, float]:
    """Of genuine images beside their own nearest cases, and beside three wrong ones.

    Wrong ones have no rare finding of the image's own. They are random or rare: as a worker quotes them, which leaves
    out what is too unlike; all of them, under their own similarities; or, disguised, under those of the nearest. Beside
    the shares, how many of the wrong ones a worker quotes.
    """
    shelf = ready.shelves[family]
    nearest = {n: shelf.near(n) for n in items}
    shares = {"nearest": _inherited(ruler, ready, nearest, {n: shelf.similar(cases) for n, cases in nearest.items()})}
    for rare in (False, True) if family == "chest" else (False,):
        for disguised in (False, True):
            quoted = {
                n: shelf.wrong(
                    n, ruler.rng, rare=rare, disguised=disguised, unlike=rare_findings(case_of(ready.pool.items[n]))
                )
                for n in items
            }
            name = "rare" if rare else "random"
            shares[name + (", disguised" if disguised else ", all quoted")] = _inherited(ruler, ready, quoted, quoted)
            if not disguised:
                similar = {n: shelf.similar(cases) for n, cases in quoted.items()}
                shares[name] = _inherited(ruler, ready, quoted, similar)
                shares[f"{name}, quoted"] = round(sum(map(len, similar.values())) / sum(map(len, quoted.values())), 4)
    return shares


def _inherited(
    ruler: Ruler, ready: Ready, cases: dict[int, list[QuotedCase]], quoted: dict[int, list[QuotedCase]]
) -> float:
    """The share that affirms what only *cases* have, of reports beside those of them that are *quoted*."""
    texts = ruler.write(ready, list(quoted), quoted.__getitem__)
    truths = [_truth(ready.pool.items[number]) for number in cases]
    return _share(texts, list(cases.values()), truths)


def _truth(item: Item) -> set[str]:
    """What may be said of an item; of something without a common name also that it is not classified."""
    return {finding.name for finding in case_of(item).findings} | ({UNCLASSIFIED} if item.nameless else set())


def _share(texts: list[str], quoted: list[list[QuotedCase]], truths: list[set[str]]) -> float:
    taken = [
        bool((_names(text) & set().union(*(_names(case.report) for case in cases))) - truth)
        for text, cases, truth in zip(texts, quoted, truths, strict=True)
    ]
    return round(float(np.mean(taken)), 4)


def _names(text: str) -> set[str]:
    return {label.finding for label in present(text)}


def by_kind(ruler: Ruler) -> dict[str, dict[str, float]]:
    """What genuine images inherit: of every kind, and apart of chests that show something rare or without a name."""
    size = ruler.size
    shares = [Share(family, size.others, mixed=False) for family in CATALOGUE if family != "chest"]
    chests = Share("chest", size.chests), Share("chest", size.rare * len(RARE), rare=1 / len(RARE))
    ready = ruler.look(make_pool([*shares, *chests, Share("chest", size.rare, odd=1.0)], seed=ruler.seed + 6))
    items = ready.pool.items
    groups = {family: [n for n in ready.pool.of(family) if not items[n].nameless] for family in CATALOGUE}
    rows = {family: inherited(ruler, ready, numbers, family) for family, numbers in groups.items()}
    rare = [number for number, item in enumerate(items) if item.rare]
    odd = [number for number, item in enumerate(items) if item.nameless and not item.rare]
    return {**rows, "chest, rare": inherited(ruler, ready, rare), "chest, without a name": inherited(ruler, ready, odd)}


def refusing(ruler: Ruler) -> dict[str, dict[str, Any]]:
    """Images that are none of the kind they are said to be, by that kind and what they are."""
    rng = np.random.default_rng(ruler.seed + 4)
    count = ruler.size.junk
    junk = {name: np.stack([paint(rng) for _ in range(count)]) for name, paint in {**TRAINED, **HELD_OUT}.items()}
    others = {}
    for family in CATALOGUE:
        pool = make_pool([Share(family, count)], seed=ruler.seed + 5)
        others[family] = pool.images[[item.rows[0] for item in pool.items]]
    return {
        claimed: {
            **{name: _refused(ruler, images, claimed) for name, images in junk.items()},
            **{name: _refused(ruler, images, claimed) for name, images in others.items() if name != claimed},
        }
        for claimed in CATALOGUE
    }


def _refused(ruler: Ruler, images: npt.NDArray[np.uint8], claimed: str) -> dict[str, float]:
    """With three tempting reports: what is claimed, and what is left of that where the gate refuses first."""
    count = len(images)
    items = [Item(JUNK, None, (row,)) for row in range(count)]
    nothing_there = np.zeros((count, 64, 1), np.bool_), np.zeros((count, 1), np.bool_)
    family = np.full(count, FAMILIES.index(JUNK), np.int64)
    ready = ruler.look(Pool(items, images, *nothing_there, family), claimed=claimed)
    shelf = ready.shelves[claimed]
    quoted = {
        number: shelf.wrong(number, ruler.rng, rare=number < count * TEMPTING, disguised=True)
        for number in range(count)
    }
    texts = ruler.write(ready, list(quoted), quoted.__getitem__, claimed=claimed)
    nothing: list[set[str]] = [set()] * count
    passed = ready.z <= ruler.usual[claimed].threshold
    read = [text if through else "" for text, through in zip(texts, passed, strict=True)]
    return {
        "claimed": _claimed(texts),
        "inherited": _share(texts, list(quoted.values()), nothing),
        "passed_the_gate": round(float(passed.mean()), 4),
        "claimed_with_gate": _claimed(read),
        "inherited_with_gate": _share(read, list(quoted.values()), nothing),
    }


def _claimed(texts: Sequence[str]) -> float:
    return round(float(np.mean([bool(_names(text)) for text in texts])), 4)
