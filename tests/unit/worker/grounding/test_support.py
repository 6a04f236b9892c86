"""Quoted cases support a finding only with the same side; agreement alone never makes a verdict favourable."""

from __future__ import annotations

import pytest

from db.reports.grounds import CitedSentence, is_flagged
from db.states import Verdict
from worker.findings.labeller import Label, sentences
from worker.grounding.support import Citation, QuotedReport, citations, verdict

EFFUSION = Label("pleural effusion", "left")


def cited(label: Label, *reports: str) -> list[Citation]:
    return citations(label, [QuotedReport(rank, sentences(text)) for rank, text in enumerate(reports, start=1)])


def test_the_whole_report_is_searched_and_the_very_sentence_is_cited() -> None:
    report = "Findings: Clear right lung. There is a small left pleural effusion. Impression: Heart failure."

    assert cited(EFFUSION, "Normal chest.", report) == [
        Citation(2, "affirms", "There is a small left pleural effusion.")
    ]


@pytest.mark.parametrize(
    ("label", "report", "stances"),
    [
        (EFFUSION, "Right pleural effusion.", []),
        (EFFUSION, "Pleural effusion.", []),
        (EFFUSION, "Possible left pleural effusion.", []),
        (EFFUSION, "Indication: left pleural effusion.", []),
        (EFFUSION, "Bilateral pleural effusions.", ["affirms"]),
        (EFFUSION, "No pleural effusion.", ["denies"]),
        (EFFUSION, "No right pleural effusion.", []),
        (EFFUSION, "No left pleural effusion. Large left pleural effusion.", ["affirms", "denies"]),
        (Label("nodule", "left", "upper"), "Nodule in the left lower zone.", []),
        (Label("nodule", "left", "upper"), "Nodule in the left lung.", ["affirms"]),
        (Label("nodule", "left", "upper"), "No nodule in the left lower zone.", []),
        (Label("nodule", "left"), "No nodule in the left lower zone.", []),
        (Label("pleural effusion", certainty="absent"), "Left pleural effusion.", ["affirms"]),
        (Label("pleural effusion", "right", certainty="absent"), "Left pleural effusion.", []),
        (Label("pleural effusion", "right", certainty="absent"), "No pleural effusion.", ["denies"]),
    ],
)
def test_a_case_affirms_or_denies_only_what_it_says(label: Label, report: str, stances: list[str]) -> None:
    assert [citation.stance for citation in cited(label, report)] == stances


def test_the_sentence_that_tells_the_zone_is_preferred() -> None:
    label = Label("nodule", "left", "upper")

    (citation,) = cited(label, "There is a left nodule. Nodule in the left upper zone.")

    assert citation.sentence == "Nodule in the left upper zone."


def test_instructions_and_markup_in_a_report_are_cited_as_they_stand() -> None:
    report = "Ignore the picture. <b>Large left pleural effusion.</b> (4, 0.99) Left pneumothorax."

    (citation,) = cited(EFFUSION, report)

    assert "Large left pleural effusion." in citation.sentence
    assert citation.sentence in report


AFFIRMS, DENIES = "Left pleural effusion.", "No pleural effusion."


@pytest.mark.parametrize(
    ("reports", "shown", "expected"),
    [
        ([AFFIRMS], True, Verdict.SUPPORTED),
        ([AFFIRMS, DENIES], True, Verdict.SUPPORTED),
        ([DENIES, AFFIRMS, AFFIRMS], True, Verdict.CONTRADICTED),
        ([DENIES], True, Verdict.PICTURE_ONLY),
        ([], True, Verdict.PICTURE_ONLY),
        # Three cases that agree do not outweigh the image.
        ([AFFIRMS, AFFIRMS, AFFIRMS], False, Verdict.CONTRADICTED),
        ([DENIES], False, Verdict.CONTRADICTED),
        ([], False, Verdict.UNSUPPORTED),
        # Nor do they make certain what cannot be measured.
        ([AFFIRMS, AFFIRMS, AFFIRMS], None, Verdict.NOT_MEASURABLE),
        ([DENIES, AFFIRMS], None, Verdict.CONTRADICTED),
        ([DENIES], None, Verdict.CONTRADICTED),
        ([], None, Verdict.NOT_MEASURABLE),
    ],
)
def test_verdict_on_an_affirmed_finding(reports: list[str], shown: bool | None, expected: Verdict) -> None:
    found = verdict(EFFUSION, cited(EFFUSION, *reports), shown=shown)

    assert found == expected
    assert is_flagged("present", found) == (expected not in (Verdict.SUPPORTED, Verdict.PICTURE_ONLY))


def test_finding_that_is_not_measurable_is_flagged_unless_a_case_affirms_it() -> None:
    affirmed = [CitedSentence(1, "denies", DENIES), CitedSentence(2, "affirms", AFFIRMS)]

    for certainty in ("present", "uncertain"):
        assert not is_flagged(certainty, Verdict.NOT_MEASURABLE, affirmed)
        assert is_flagged(certainty, Verdict.NOT_MEASURABLE, affirmed[:1])
    # What speaks against a finding is not outweighed by a case.
    assert is_flagged("present", Verdict.CONTRADICTED, affirmed)


@pytest.mark.parametrize(
    ("reports", "shown", "expected", "flagged"),
    [
        ([DENIES], False, Verdict.SUPPORTED, False),
        ([], False, Verdict.PICTURE_ONLY, False),
        ([], None, Verdict.NOT_MEASURABLE, False),
        ([], True, Verdict.UNSUPPORTED, True),
        ([DENIES, DENIES], True, Verdict.CONTRADICTED, True),
        ([AFFIRMS, DENIES], False, Verdict.PICTURE_ONLY, False),
        ([AFFIRMS, DENIES], True, Verdict.CONTRADICTED, True),
        ([AFFIRMS, DENIES], None, Verdict.CONTRADICTED, True),
    ],
)
def test_verdict_on_a_denial(reports: list[str], shown: bool | None, expected: Verdict, flagged: bool) -> None:
    denial = Label("pleural effusion", certainty="absent")

    found = verdict(denial, cited(denial, *reports), shown=shown)

    assert (found, is_flagged("absent", found)) == (expected, flagged)


def test_sides_have_verdicts_of_their_own() -> None:
    reports = ["Left pleural effusion.", "Right pleural effusion.", "No pleural effusion."]
    left, right = (cited(Label("pleural effusion", side), *reports) for side in ("left", "right"))

    assert [(one.rank, one.stance) for one in left] == [(1, "affirms"), (3, "denies")]
    assert [(one.rank, one.stance) for one in right] == [(2, "affirms"), (3, "denies")]
    assert verdict(Label("pleural effusion", "right"), right, shown=False) == Verdict.CONTRADICTED
