"""Reports: the labeller reads back the findings of a case from every style."""

from __future__ import annotations

import numpy as np
import pytest

from worker.findings.labeller import present
from worker.phantoms import grammar, questions
from worker.phantoms.cases import CATALOGUE, CHEST_RARE, UNCLASSIFIED, Case, Finding, draw_case


def expected(case: Case) -> set[tuple[str, str, str]]:
    findings = {(finding.name, finding.side, finding.zone) for finding in case.findings}
    return findings | ({(UNCLASSIFIED, "", "")} if case.distractor else set())


@pytest.mark.parametrize("image", CATALOGUE)
@pytest.mark.parametrize("style", range(grammar.STYLES))
def test_every_style_states_exactly_the_findings(image: str, style: int) -> None:
    rng = np.random.default_rng(style)
    for number in range(60):
        rare = str(rng.choice([kind.name for kind in CHEST_RARE])) if image == "chest" and number % 3 == 0 else ""
        case = draw_case(rng, image, rare=rare, distractor=image == "chest" and number % 5 == 0)

        text = grammar.report(case, style)

        assert {label.strict for label in present(text)} == expected(case), text


def test_styles_differ_in_words_and_order() -> None:
    case = draw_case(np.random.default_rng(1), "chest")

    assert len({grammar.report(case, style) for style in range(grammar.STYLES)}) == grammar.STYLES


@pytest.mark.parametrize("image", CATALOGUE)
def test_exactly_one_of_the_options_is_correct(image: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(40):
        case = draw_case(rng, image)

        options, answer = questions.choose(case, rng)

        names = {finding.name for finding in case.findings} or {questions.NORMAL}
        assert set(options) & names == {answer}
        assert len(set(options)) == len(options)


@pytest.mark.parametrize(
    ("case", "correct"),
    [
        (Case("chest", 1, (Finding("free air"),)), "free air"),
        (Case("chest", 1, distractor=True), UNCLASSIFIED),
        (Case("chest", 1), questions.NORMAL),
    ],
)
def test_an_unclassified_case_is_not_labelled_normal(case: Case, correct: str) -> None:
    options, answer = questions.choose(case, np.random.default_rng(4))

    assert answer == correct == questions.label(case)
    assert answer in options


def test_questions_are_answered_from_the_findings() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        case = draw_case(rng, "chest")
        asked, answer = questions.ask(case, rng)
        names = {finding.name for finding in case.findings}
        if asked.startswith("Is there "):
            assert answer == ("Yes." if asked.removeprefix("Is there ").rstrip("?") in names else "No.")
