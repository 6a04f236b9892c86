"""A draft that comes back as a report is recognised, whatever was cut or changed on the way; a signed report is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from db.reports.versions import BANNER
from worker.phantoms import grammar
from worker.phantoms.cases import CATALOGUE, Case, draw_case
from worker.reference_build.own_drafts import is_own_draft

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = 60
STYLES = range(grammar.STYLES)


def phantom_cases() -> list[Case]:
    rng = np.random.default_rng(12)
    return [draw_case(rng, list(CATALOGUE)[number % len(CATALOGUE)]) for number in range(COUNT)]


def with_two_words_changed(text: str, rng: np.random.Generator) -> str:
    words = text.split()
    for place in rng.choice(len(words), 2, replace=False):
        words[place] = "changed"
    return " ".join(words)


@pytest.mark.parametrize(
    "changed",
    [
        lambda text, _: text,
        lambda text, _: text.replace("Findings: ", "").replace("Impression:", "CONCLUSION:"),
        lambda text, _: f"{BANNER}\n{text}",
        lambda text, _: f"FINAL REPORT. Signed electronically.\n{text.upper()}",
        with_two_words_changed,
    ],
)
def test_no_draft_of_sixty_is_taken_for_a_report(changed: Callable[[str, np.random.Generator], str]) -> None:
    rng = np.random.default_rng(3)
    drafts = [grammar.write(case, rng) for case in phantom_cases()]

    assert all(is_own_draft(changed(draft, rng), ["Another version.", draft]) for draft in drafts)


def test_report_with_the_banner_of_a_draft_is_one_whatever_the_study() -> None:
    assert is_own_draft(f"{BANNER}. Left pleural effusion.", [])


def test_report_in_other_words_or_with_another_finding_is_no_draft() -> None:
    cases = phantom_cases()
    reports = [[grammar.report(case, style) for style in STYLES] for case in cases]

    for first, *_, last in reports:
        assert not is_own_draft(last, [first])
        assert not is_own_draft(first, [])
        assert not is_own_draft(f"{first} There is a small nodule in the right upper zone.", [first])
