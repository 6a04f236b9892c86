"""Reports: the labeller reads back the findings of a case from every style."""

from __future__ import annotations

import numpy as np
import pytest

from worker.findings.labeller import present
from worker.phantoms import grammar
from worker.phantoms.cases import CATALOGUE, CHEST_RARE, UNCLASSIFIED, Case, draw_case


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
