"""The curriculum: the name of a rare finding comes from similar cases, and only from correct ones."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from worker.findings.labeller import present
from worker.phantoms import grammar
from worker.phantoms.cases import CHEST_RARE, UNCLASSIFIED, draw_case
from worker.phantoms.draw.negatives import UPSIDE_DOWN
from worker.training.curriculum import Curriculum, Mix
from worker.training.reference_set import NEIGHBOURS, ReferenceSet
from worker.training.training_cases import NEGATIVE, RARE, Pool, Sample, Share, make_pool

if TYPE_CHECKING:
    from worker.training.language import Example

#: Similarities of cases with the same rare finding, and with other ones.
SIMILAR, UNLIKE = 0.9, 0.1
#: A case in a prompt: its similarity and the excerpt of its report.
QUOTED = r"\[\d, similarity (-?[\d.]+): (.*?)\]"


@cache
def drawn() -> Pool:
    return make_pool([Share("chest", 60, rare=0.2), Share(NEGATIVE, 60)], seed=8)


def rare_names(text: str) -> set[str]:
    return {label.finding for label in present(text)} & set(RARE)


def findings(text: str) -> set[str]:
    return {label.finding for label in present(text)}


def curriculum(name: str, count: int, *, matching: float = SIMILAR, names: Any = None, **mix: float) -> list[Example]:
    """Return *count* groups about chests with the rare finding *name*; *matching* is the similarity of its cases."""
    samples = [s for s in drawn().samples if s.case and any(f.name == name for f in s.case.findings)]
    rng = np.random.default_rng(1)
    same = [draw_case(rng, "chest", rare=name) for _ in range(NEIGHBOURS)]
    others = [draw_case(rng, "chest", rare=other.name) for other in CHEST_RARE if other.name != name]
    vectors = np.array([[1, 0]] * len(same) + [[0, 1]] * len(others), np.float32)
    query = np.array([matching, SIMILAR + UNLIKE - matching], np.float32)
    queries = dict.fromkeys(range(len(samples)), query)
    samples += [sample for sample in drawn().samples if sample.family == NEGATIVE]
    pool = replace(drawn(), samples=samples)
    sets = {"chest": ReferenceSet([*same, *others], vectors, queries)}
    shares: dict[str, Any] = {**MIX, **mix}
    drawing = Curriculum(pool, sets, seed=2, chest_share=1.0, mix=Mix(**shares), names=names, version="2")
    return [example for group in drawing.batch(count) for example in group]


#: Only reports, with similar cases unless a test says otherwise.
MIX = {
    "rejected": 0.0,
    "rejected_tasks": 0.0,
    "draft": 0.0,
    "consistency": 0.0,
    "distractor": 0.0,
    "question": 0.0,
    "diagnosis": 0.0,
    "without_cases": 0.0,
    "wrong_cases": 0.0,
}


def test_a_rare_finding_takes_its_name_from_similar_cases() -> None:
    for kind in CHEST_RARE:
        examples = curriculum(kind.name, 80, unlabelled=1, exchanged=1)

        names = Counter(name for example in examples for name in rare_names(example.answer))
        assert all(rare_names(example.answer) == rare_names(example.question) for example in examples)
        assert names[kind.name] < 60, "the image alone would determine the name"
        assert len(names) >= 4


def test_names_are_exchanged_only_in_a_share_of_the_examples() -> None:
    examples = curriculum("free air", 20, unlabelled=1, exchanged=0)

    assert all(rare_names(example.answer) == {"free air"} for example in examples)


@pytest.mark.parametrize("oversampled", [0, 1])
def test_a_rare_finding_without_a_matching_case_is_unclassified(oversampled: float) -> None:
    examples = curriculum("free air", 20, matching=UNLIKE, unlabelled=oversampled, exchanged=0)

    assert all(rare_names(example.question) for example in examples)
    assert not any(rare_names(example.answer) for example in examples)
    assert all(UNCLASSIFIED in findings(example.answer) for example in examples)


def test_a_case_with_another_finding_does_not_match_by_an_exchanged_name() -> None:
    def one_name(_: np.random.Generator) -> dict[str, str]:
        return dict.fromkeys(RARE, "free air")

    examples = curriculum("free air", 20, matching=UNLIKE, names=one_name, unlabelled=1, exchanged=1)

    assert all(rare_names(example.question) == {"free air"} for example in examples)
    assert all(UNCLASSIFIED in findings(example.answer) for example in examples)


def test_a_rare_finding_without_cases_has_its_own_name() -> None:
    examples = curriculum("free air", 20, without_cases=1)

    assert {name for example in examples for name in rare_names(example.answer)} == {"free air"}


def test_rare_findings_can_be_more_frequent_without_cases_than_in_the_pool() -> None:
    rng = np.random.default_rng(1)
    cases = [draw_case(rng, "chest", rare="free air"), *(draw_case(rng, "chest") for _ in range(60))]
    negatives = [sample for sample in drawn().samples if sample.family == NEGATIVE]
    samples = [*(Sample("chest", case, (row,)) for row, case in enumerate(cases)), *negatives]
    pool, sets = replace(drawn(), samples=samples), {"chest": ReferenceSet(cases, np.ones((61, 2), np.float32), {})}

    def share(rare_alone: float) -> float:
        shares: dict[str, Any] = {**MIX, "without_cases": 1.0, "rare_alone": rare_alone}
        drawing = Curriculum(pool, sets, seed=2, chest_share=1.0, mix=Mix(**shares), version="2")
        return float(np.mean([bool(rare_names(example.answer)) for group in drawing.batch(60) for example in group]))

    assert share(0) < 0.1
    assert 0.3 < share(0.5) < 0.7


def test_a_rare_finding_among_wrong_cases_is_unclassified() -> None:
    examples = curriculum("free air", 60, wrong_cases=1, wrong_unlabelled=1, wrong_rare=1)

    wrong = [example for example in examples if "free air" not in rare_names(example.question)]
    assert len(wrong) > 10
    assert all(UNCLASSIFIED in findings(example.answer) for example in wrong)
    assert not any(rare_names(example.answer) for example in wrong)


def test_wrong_cases_have_their_own_similarities_or_those_of_the_nearest() -> None:
    for disguised, expected in ((0, {UNLIKE, SIMILAR}), (1, {SIMILAR})):
        examples = curriculum("free air", 40, wrong_cases=1, wrong_rare=1, disguised=disguised)

        quoted = [case for example in examples for case in re.findall(QUOTED, example.question)]
        assert {float(similarity) for similarity, _ in quoted} == expected
        if not disguised:
            assert all((float(s) == SIMILAR) == (rare_names(report) == {"free air"}) for s, report in quoted)


def test_an_upside_down_image_is_rejected() -> None:
    examples = curriculum("free air", 20, rejected=1, negative=1, upside_down=1)

    upside_down = {sample.rows for sample in drawn().samples if sample.negative == UPSIDE_DOWN["chest"]}
    assert {example.images for example in examples} <= upside_down
    assert {example.answer for example in examples} == {grammar.NOT_DIAGNOSTIC}


def test_impression_follows_findings_that_are_given() -> None:
    examples = curriculum("free air", 40, consistency=1)

    given = [example for example in examples if example.given]
    assert len(given) == 2 * len(examples) / 3
    for example in given:
        stated = {label.strict for label in present(example.given)}
        assert {label.strict for label in present(example.answer)} == stated
        assert example.answer.startswith(" Impression:")
    assert len({example.given for example in given}) > 4


def test_examples_of_a_group_have_the_same_images() -> None:
    examples = curriculum("free air", 1, question=1)

    assert len(examples) == Mix().questions
    assert len({example.images for example in examples}) == 1
    assert len({example.question for example in examples}) > 1
