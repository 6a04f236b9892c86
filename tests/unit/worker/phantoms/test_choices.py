"""Choices between diagnoses: one option is right, or none of them."""

from __future__ import annotations

import numpy as np
import pytest

from worker.phantoms import choices
from worker.phantoms.cases import CATALOGUE, UNCLASSIFIED, Case, Finding, draw_case
from worker.prompting.wording import NONE_OF_THESE


@pytest.mark.parametrize("image", CATALOGUE)
def test_exactly_one_option_is_right_or_none(image: str) -> None:
    rng = np.random.default_rng(5)
    for removed in (False, True, None) * 30:
        case = draw_case(rng, image)
        drawn = choices.choose(case, rng, removed=removed)

        right = [option for option in drawn.options if option in choices.diagnoses(case)]
        assert drawn.answers == (right or [NONE_OF_THESE])
        assert len(right) == 1 - removed if removed is not None else len(right) <= 1
        assert len(set(drawn.options)) == len(drawn.options) > 0


def test_all_right_options_are_chosen_in_their_order() -> None:
    rng = np.random.default_rng(5)
    case = Case("ct", 1, (Finding("infarct", "left"), Finding("hydrocephalus")))
    for drawn in (choices.choose_several(case, rng) for _ in range(40)):
        right = [option for option in drawn.options if option in {"infarct", "hydrocephalus"}]
        assert drawn.answers == (right or [NONE_OF_THESE])


def test_specialists_are_right_at_their_accuracy() -> None:
    rng = np.random.default_rng(5)
    case = Case("skin", 1, (Finding("erythema"),))
    predicted = [name for _ in range(600) for name in choices.specialists(case, rng, accuracy=0.75)]

    assert 0.68 <= np.mean([name == "erythema" for name in predicted]) <= 0.82


def test_wrong_label_is_an_option_that_the_case_has_not() -> None:
    rng = np.random.default_rng(5)
    case = Case("skin", 1, (Finding("erythema"),))

    labels = {choices.wrong_label(case, rng, ["erythema", "ulceration", NONE_OF_THESE]) for _ in range(20)}
    assert labels == {"ulceration"}


@pytest.mark.parametrize(
    ("case", "correct"),
    [
        (Case("chest", 1, (Finding("free air"),)), "free air"),
        (Case("chest", 1, distractor=True), UNCLASSIFIED),
        (Case("chest", 1), choices.NORMAL),
    ],
)
def test_an_unclassified_case_is_not_labelled_normal(case: Case, correct: str) -> None:
    drawn = choices.choose(case, np.random.default_rng(4), removed=False)

    assert drawn.answers == [correct] == [choices.label(case)]
