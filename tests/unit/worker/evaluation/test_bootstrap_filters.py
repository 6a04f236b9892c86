"""A pair is kept if its text states the confirmed findings, and image and blind draft do not speak against them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from db.reports.grounds import GroundedFinding, GroundedSentence, Grounds, InImage, OmittedFinding
from db.reports.versions import CheckResult, Draft
from db.states import Check, CheckState, Verdict
from worker.evaluation.bootstrap.guided import statement
from worker.evaluation.bootstrap.pair_filters import filtered
from worker.findings.labeller import present, sentences

EFFUSION = "There is a left pleural effusion."
CONFIRMED = present(EFFUSION)


def draft(findings: str, impression: str = "Left pleural effusion.", *, score: float = 0.9, **changes: Any) -> Draft:
    """A draft whose findings all have *score* in the image, with a threshold of 0.5."""
    grounded = [
        GroundedSentence(
            sentence.section,
            sentence.start,
            sentence.end,
            [
                GroundedFinding(
                    m.label.finding,
                    m.label.side,
                    m.label.zone,
                    m.label.size,
                    m.label.certainty,
                    m.start,
                    m.end,
                    Verdict.NOT_MEASURABLE,
                    InImage(score, 0.5, 1),
                )
                for m in sentence.mentions
            ],
        )
        for sentence in sentences(findings)
    ]
    provenance = {"refused": False, "parts": [{}]}
    text = Draft(findings, impression, "", "2", "digest", provenance, grounds=Grounds(grounded))
    return replace(text, **changes)


def reasons(guided: Draft, blind: Draft | None = None, confirmed: Any = CONFIRMED) -> list[str]:
    result = filtered(guided, blind or draft(EFFUSION), confirmed)
    return [*result.rejected, *result.hard]


def test_a_draft_that_states_what_is_confirmed_is_kept() -> None:
    assert reasons(draft(EFFUSION)) == []


@pytest.mark.parametrize(
    ("findings", "impression", "reason"),
    [
        ("There is a right pleural effusion.", "Right pleural effusion.", "label_not_affirmed"),
        ("The lungs are clear.", "Normal chest.", "label_not_affirmed"),
        ("There may be a left pleural effusion.", "Possible left pleural effusion.", "label_not_affirmed"),
        (f"{EFFUSION} No pleural effusion.", "Left pleural effusion.", "label_denied_or_uncertain"),
        ("There is a left pleural effusion and cardiomegaly.", "Left pleural effusion.", "other_finding"),
    ],
)
def test_a_draft_that_states_something_else_is_rejected(findings: str, impression: str, reason: str) -> None:
    assert reason in filtered(draft(findings, impression), draft(EFFUSION), CONFIRMED).rejected


def test_a_sentence_about_another_finding_is_dropped_if_the_image_does_not_show_it() -> None:
    guided = draft(f"{EFFUSION} There is cardiomegaly.", score=0.1)

    result = filtered(guided, draft(EFFUSION), CONFIRMED)

    assert (result.findings, result.trimmed, result.rejected, result.hard) == (EFFUSION, True, [], [])


def test_a_finding_without_label_that_the_image_shows_is_for_a_person() -> None:
    shown = draft(f"{EFFUSION} There is cardiomegaly.")
    omitted = OmittedFinding("cardiomegaly", "", InImage(0.9, 0.5, 1))
    missed = replace(draft(EFFUSION), grounds=Grounds([], [omitted]))

    assert reasons(shown) == ["image_shows_other_finding"]
    assert reasons(missed) == ["image_shows_other_finding"]


def test_a_label_that_neither_image_nor_blind_draft_supports_is_for_a_person() -> None:
    unseen, silent = draft(EFFUSION, score=0.1), draft("The heart is normal.", "Normal heart.")

    assert "label_not_in_image" in reasons(unseen, silent)
    assert reasons(unseen, draft(EFFUSION)) == []


@pytest.mark.parametrize(
    ("blind", "reason"),
    [
        ("No pleural effusion.", "blind_denies_label"),
        ("There is a right pleural effusion.", "blind_affirms_other_finding"),
        ("There is a left pleural effusion. There is cardiomegaly.", "blind_affirms_other_finding"),
    ],
)
def test_labels_that_the_blind_draft_contradicts_are_for_a_person(blind: str, reason: str) -> None:
    assert reason in filtered(draft(EFFUSION), draft(blind, blind), CONFIRMED).hard


def test_a_zone_that_no_label_states_must_be_told_twice() -> None:
    upper, lower = (f"There is a nodule in the left {zone} zone." for zone in ("upper", "lower"))
    confirmed = present("left nodule")

    assert "place_told_once" in reasons(draft(upper, upper), draft(lower, lower), confirmed)
    assert reasons(draft(upper, upper), draft(upper, upper), confirmed) == []


def test_a_draft_that_failed_a_check_is_rejected_unless_it_only_lacks_similar_cases() -> None:
    failed = [CheckResult(check, CheckState.WARNING) for check in (Check.NEGATIONS, Check.SUPPORT)]

    assert reasons(draft(EFFUSION, checks=failed)) == ["check_negation"]


@pytest.mark.parametrize(
    "label", ["left pleural effusion", "nodule in the right upper zone", "large left pneumothorax"]
)
def test_the_statement_for_the_model_says_the_label(label: str) -> None:
    assert present(statement(present(label))) == present(label)
