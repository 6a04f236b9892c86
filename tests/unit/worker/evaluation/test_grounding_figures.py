"""Figures on what findings rest on: citations, marks, order by score, calibration."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from db.reports.grounds import CitedSentence, GroundedFinding, GroundedSentence, Grounds, InImage
from db.states import Verdict
from worker.evaluation.grounding_figures import (
    GroundedReport,
    calibration_error,
    figures,
    risk_coverage,
    wrong_citations,
)
from worker.evaluation.sentence_figures import contradictions, is_right
from worker.findings.labeller import Label

CASES = [
    "Findings: Small left pleural effusion. Impression: Effusion.",
    "History: right effusion. No pleural effusion.",
]
WANTED = frozenset({Label("pleural effusion", "left")})


def finding(
    side: str, verdict: Verdict, score: float = 1.0, cited: list[CitedSentence] | None = None
) -> GroundedFinding:
    in_image = InImage(score, 0.5, 1)
    return GroundedFinding(
        "pleural effusion", side, "", "", "present", 0, 8, verdict, in_image, math.log(0.8), cited or []
    )


def report(*findings: GroundedFinding) -> GroundedReport:
    return GroundedReport(Grounds([GroundedSentence("findings", 0, 9, [one]) for one in findings]), WANTED, CASES)


RIGHT = CitedSentence(1, "affirms", "Small left pleural effusion.")


def test_a_right_citation_is_accepted() -> None:
    cited = [RIGHT, CitedSentence(2, "denies", "No pleural effusion.")]

    assert wrong_citations(report(finding("left", Verdict.SUPPORTED, cited=cited))) == []


@pytest.mark.parametrize(
    ("side", "citation"),
    [
        ("right", RIGHT),
        ("", RIGHT),
        ("left", replace(RIGHT, rank=2)),
        ("left", replace(RIGHT, rank=3)),
        ("left", replace(RIGHT, rank=0)),
        ("left", replace(RIGHT, stance="denies")),
        ("left", replace(RIGHT, sentence="Left pleural effusion.")),
        ("left", replace(RIGHT, sentence="")),
        ("left", replace(RIGHT, sentence="Effusion.")),
        ("right", CitedSentence(2, "affirms", "right effusion.")),
        ("left", CitedSentence(2, "affirms", "No pleural effusion.")),
        ("left", CitedSentence(1, "denies", "Effusion.")),
    ],
)
def test_each_wrong_citation_is_found(side: str, citation: CitedSentence) -> None:
    planted = report(finding(side, Verdict.SUPPORTED, cited=[citation]))

    assert [found for _, found in wrong_citations(planted)] == [citation]
    assert figures([planted])["citation precision"] == 0


def test_marks_are_counted_for_right_and_wrong_findings_apart() -> None:
    measured = figures(
        [
            report(
                finding("left", Verdict.SUPPORTED, cited=[RIGHT]),
                finding("right", Verdict.UNSUPPORTED, 0.1),
                finding("right", Verdict.NOT_MEASURABLE),
            )
        ]
    )

    assert measured["citation recall"] == pytest.approx(1 / 3)
    # One that is not measurable is flagged if no case affirms it.
    assert measured["wrong findings marked"] == measured["wrong sentences marked"] == 1
    assert measured["right findings marked"] == measured["right sentences marked"] == 0
    assert measured["not measurable"] == pytest.approx(1 / 3)


def test_figures_without_findings_are_undefined() -> None:
    assert all(math.isnan(value) for value in figures([report()]).values())


def test_risk_coverage_is_lower_if_wrong_findings_have_the_lowest_scores() -> None:
    ordered = [(0.9, True), (0.8, True), (0.1, False)]

    assert risk_coverage(ordered) == pytest.approx(1 / 9)
    assert risk_coverage([(-score, right) for score, right in ordered]) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_calibration_error_is_the_distance_of_probability_and_share() -> None:
    assert calibration_error([(0.75, True)] * 3 + [(0.75, False)]) == pytest.approx(0)
    assert calibration_error([(1.0, False)] * 5) == 1


@pytest.mark.parametrize(
    ("label", "right"),
    [
        (Label("pleural effusion", "left"), True),
        (Label("pleural effusion"), True),
        (Label("pleural effusion", "right"), False),
        (Label("pleural effusion", "right", certainty="absent"), True),
        (Label("pleural effusion", certainty="absent"), False),
        (Label("nodule", certainty="uncertain"), True),
        (Label("nodule"), False),
    ],
)
def test_a_written_finding_is_right_in_its_place(label: Label, *, right: bool) -> None:
    assert is_right(label, WANTED) == right


@pytest.mark.parametrize(
    "text",
    [
        "Findings: Left effusion. Impression: Right effusion.",
        "Findings: Left effusion. No effusion. Impression: Left effusion.",
        "Findings: Small left effusion. Impression: Large left effusion.",
        "Findings: Lungs are clear. Impression: Left nodule.",
    ],
)
def test_a_report_that_contradicts_itself_is_found(text: str) -> None:
    assert contradictions(text)
    assert not contradictions("Findings: Small left effusion. No nodule. Impression: Small left effusion.")
