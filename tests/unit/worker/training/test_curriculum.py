"""The lessons: what a rare finding is called comes from the neighbours, and only from those that are right."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np

from worker.findings.labeller import present
from worker.phantoms import grammar
from worker.phantoms.cases import CHEST_RARE, UNCLASSIFIED, draw_case
from worker.phantoms.draw.negatives import ON_ITS_HEAD
from worker.training.curriculum import Curriculum, Mix
from worker.training.reference_set import NEIGHBOURS, Shelf
from worker.training.samples import JUNK, RARE, Pool, Share, make_pool

#: Of the fixture's cases: those with the same rare finding, and those with others.
SIMILAR, UNLIKE = 0.9, 0.1
#: A case in a prompt: its similarity and what is quoted of its report.
QUOTED = r"\(\d, (-?[\d.]+)\) (.*?)(?= \(\d, |$)"


@cache
def drawn() -> Pool:
    return make_pool([Share("chest", 60, rare=0.2), Share(JUNK, 60)], seed=8)


def rare_names(text: str) -> set[str]:
    return {label.finding for label in present(text)} & set(RARE)


def findings(text: str) -> set[str]:
    return {label.finding for label in present(text)}


def curriculum(name: str, **mix: float) -> Curriculum:
    """Lessons about chests that all show the rare finding *name*, with neighbours that do and far cases that do not."""
    items = [item for item in drawn().items if item.case and any(f.name == name for f in item.case.findings)]
    rng = np.random.default_rng(1)
    near = [draw_case(rng, "chest", rare=name) for _ in range(NEIGHBOURS)]
    far = [draw_case(rng, "chest", rare=other.name) for other in CHEST_RARE if other.name != name]
    vectors = np.array([[1, 0]] * len(near) + [[0, 1]] * len(far), np.float32)
    queries = {number: np.array([SIMILAR, UNLIKE], np.float32) for number in range(len(items))}
    items += [item for item in drawn().items if item.family == JUNK]
    pool = replace(drawn(), items=items)
    shelves = {"chest": Shelf([*near, *far], vectors, queries)}
    return Curriculum(pool, shelves, seed=2, about_chests=1.0, mix=Mix(**{**MIX, **mix}))


#: Nothing but reports, beside neighbours unless a test says otherwise.
MIX = {"junk": 0.0, "odd": 0.0, "question": 0.0, "diagnosis": 0.0, "alone": 0.0, "wrong": 0.0}


def test_a_rare_finding_is_called_what_its_neighbours_call_it_whatever_the_image_shows() -> None:
    for kind in CHEST_RARE:
        examples = curriculum(kind.name, nameless=1, exchanged=1).batch(80)

        called = Counter(name for example in examples for name in rare_names(example.answer))
        assert all(rare_names(example.answer) == rare_names(example.question) for example in examples)
        assert called[kind.name] < 60, "the image alone would tell its name"
        assert len(called) >= 4


def test_not_every_neighbour_goes_by_another_name() -> None:
    examples = curriculum("free air", nameless=1, exchanged=0).batch(20)

    assert all(rare_names(example.answer) == {"free air"} for example in examples)


def test_a_rare_finding_that_no_neighbour_shows_is_not_classified_however_often_it_was_drawn() -> None:
    for oversampled in (0, 1):
        lessons = curriculum("free air", nameless=oversampled, exchanged=0)
        for number, query in lessons._shelves["chest"].queries.items():
            lessons._shelves["chest"].queries[number] = query[::-1]

        examples = lessons.batch(20)

        assert all(rare_names(example.question) for example in examples)
        assert not any(rare_names(example.answer) for example in examples)
        assert all(UNCLASSIFIED in findings(example.answer) for example in examples)


def test_a_neighbour_that_shows_something_else_names_nothing_even_where_it_goes_by_the_same_name() -> None:
    lessons = curriculum("free air", nameless=1, exchanged=1)
    for number, query in lessons._shelves["chest"].queries.items():
        lessons._shelves["chest"].queries[number] = query[::-1]
    lessons._exchanged = lambda: dict.fromkeys(RARE, "free air")  # type: ignore[method-assign]

    examples = lessons.batch(20)

    assert all(rare_names(example.question) == {"free air"} for example in examples)
    assert all(UNCLASSIFIED in findings(example.answer) for example in examples)


def test_alone_a_rare_finding_has_its_own_name() -> None:
    examples = curriculum("free air", alone=1).batch(20)

    assert {name for example in examples for name in rare_names(example.answer)} == {"free air"}


def test_among_wrong_neighbours_a_rare_finding_is_not_classified() -> None:
    examples = curriculum("free air", wrong=1, doubted=1, wrong_rare=1).batch(60)

    wrong = [example for example in examples if "free air" not in rare_names(example.question)]
    assert len(wrong) > 10
    assert all(UNCLASSIFIED in findings(example.answer) for example in wrong)
    assert not any(rare_names(example.answer) for example in wrong)


def test_wrong_neighbours_come_as_similar_as_they_are_or_disguised_as_the_nearest() -> None:
    for disguised, expected in ((0, {UNLIKE, SIMILAR}), (1, {SIMILAR})):
        examples = curriculum("free air", wrong=1, wrong_rare=1, disguised=disguised).batch(40)

        quoted = [case for example in examples for case in re.findall(QUOTED, example.question)]
        assert {float(similarity) for similarity, _ in quoted} == expected
        if not disguised:
            assert all((float(s) == SIMILAR) == (rare_names(report) == {"free air"}) for s, report in quoted)


def test_a_image_on_its_head_is_refused() -> None:
    lessons = curriculum("free air", junk=1, not_a_image=1, on_its_head=1)
    upside_down = {item.rows for item in drawn().items if item.junk == ON_ITS_HEAD["chest"]}

    examples = lessons.batch(20)

    assert {example.images for example in examples} <= upside_down
    assert {example.answer for example in examples} == {grammar.NOT_DIAGNOSTIC}
