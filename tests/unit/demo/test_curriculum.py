"""The lessons: what a rare finding is called comes from the neighbours, not from the picture."""

from __future__ import annotations

from collections import Counter

import numpy as np

from deploy.demo.cases import CHEST_RARE, draw_case
from deploy.demo.curriculum import Curriculum, Mix
from deploy.demo.neighbours import NEIGHBOURS, Shelf
from deploy.demo.pool import RARE, Share, make_pool
from worker.evaluation.labeller import present

#: Nothing but reports of rare cases beside their own neighbours.
RARE_NEAR = Mix(junk=0, question=0, diagnosis=0, alone=0, wrong=0, rare=1)


def rare_names(text: str) -> set[str]:
    return {label.finding for label in present(text)} & set(RARE)


def curriculum(name: str, mix: Mix) -> Curriculum:
    """Lessons about chests that all show the rare finding *name*, with neighbours that do."""
    pool = make_pool([Share("chest", 60, rare=0.2)], seed=8)
    items = [item for item in pool.items if item.case and any(f.name == name for f in item.case.findings)]
    rng = np.random.default_rng(1)
    cases = [draw_case(rng, "chest", rare=name) for _ in range(NEIGHBOURS)]
    nearest = {number: (np.arange(NEIGHBOURS), np.full(NEIGHBOURS, 0.9, np.float32)) for number in range(len(items))}
    chests = type(pool)(items, pool.pictures, pool.patches, pool.labels, pool.family)
    return Curriculum(chests, {"chest": Shelf(cases, nearest)}, seed=2, about_chests=1.0, mix=mix)


def test_a_rare_finding_is_called_what_its_neighbours_call_it_whatever_the_picture_shows() -> None:
    for kind in CHEST_RARE:
        examples = curriculum(kind.name, RARE_NEAR).batch(80)

        called = Counter(name for example in examples for name in rare_names(example.answer))
        assert all(rare_names(example.answer) == rare_names(example.question) for example in examples)
        assert called[kind.name] < 60, "the picture alone would tell its name"
        assert len(called) >= 4


def test_alone_and_among_wrong_ones_a_rare_finding_has_its_own_name() -> None:
    for mix in (Mix(junk=0, question=0, diagnosis=0, alone=1, wrong=0), Mix(junk=0, question=0, diagnosis=0, wrong=1)):
        examples = curriculum("free air", mix).batch(20)

        assert {name for example in examples for name in rare_names(example.answer)} == {"free air"}
