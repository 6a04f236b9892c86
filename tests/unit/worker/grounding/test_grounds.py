"""Sentences and findings of a draft have offsets in its texts; log-probabilities are those of the finding's words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from db.states import Calibration, Verdict
from worker.findings.labeller import sentences
from worker.grounding.grounds import GeneratedText, PartOfReport, grounds_by_part, merged
from worker.grounding.picture import Picture
from worker.grounding.support import QuotedReport

if TYPE_CHECKING:
    from db.reports.grounds import Grounds

FINDINGS = "Small left pleural effusion. No pneumothorax."
IMPRESSION = "Left pleural effusion."


def grounds(parts: list[PartOfReport], findings: str, impression: str) -> Grounds:
    return merged(grounds_by_part(parts, findings, impression))


def generated(text: str) -> GeneratedText:
    """A token for each word, with minus its number as log-probability."""
    ends = [word.end() for word in re.finditer(r"\S+", text)]
    return GeneratedText(text, ends, [-float(number) for number in range(len(ends))])


def test_spans_are_the_sentences_and_the_words_of_the_findings() -> None:
    found = grounds([PartOfReport("CHEST", FINDINGS, IMPRESSION)], FINDINGS, IMPRESSION)

    texts = {"findings": FINDINGS, "impression": IMPRESSION}
    assert [texts[one.section][one.start : one.end] for one in found.sentences] == [
        "Small left pleural effusion.",
        "No pneumothorax.",
        "Left pleural effusion.",
    ]
    words = [(texts[one.section][f.start : f.end], f.certainty) for one in found.sentences for f in one.findings]
    assert words == [("pleural effusion", "present"), ("pneumothorax", "absent"), ("pleural effusion", "present")]
    assert found.calibration == Calibration.UNCALIBRATED


def test_spans_count_in_the_joined_text_of_several_parts_even_if_the_parts_say_the_same() -> None:
    parts = [PartOfReport(name, FINDINGS, text) for name, text in (("CT HEAD", ""), ("CR CHEST", IMPRESSION))]
    findings = f"CT HEAD\n{FINDINGS}\n\nCR CHEST\n{FINDINGS}"
    impression = f"CR CHEST\n{IMPRESSION}"

    found = grounds(parts, findings, impression)

    texts = {"findings": findings, "impression": impression}
    spans = [(one.section, one.start, texts[one.section][one.start : one.end]) for one in found.sentences]
    assert [text for _, _, text in spans] == [*(FINDINGS[:28], FINDINGS[29:]) * 2, IMPRESSION]
    assert len(set(spans)) == len(spans)


def test_log_probability_is_that_of_the_tokens_of_the_findings_words() -> None:
    text = f"Findings: {FINDINGS} Impression: {IMPRESSION}"
    part = PartOfReport("CHEST", FINDINGS, IMPRESSION, generated=generated(text))

    found = grounds([part], FINDINGS, IMPRESSION)

    # Words 3 and 4, 6, and 9 and 10 of the answer, from 0.
    assert [f.log_prob for one in found.sentences for f in one.findings] == [-7.0, -6.0, -19.0]


def test_log_probability_counts_tokens_that_overlap_in_part_and_those_without_text() -> None:
    words = GeneratedText("pneumothorax", [5, 5, 12], [-1.0, -2.0, -4.0])

    assert words.log_prob(0, 12) == -7.0
    assert words.log_prob(0, 5) == -1.0
    # The second token has no text: it is a part of the character that the third completes.
    assert words.log_prob(5, 12) == -6.0
    assert words.log_prob(20, 24) is None


def test_text_that_the_model_did_not_write_has_no_log_probability() -> None:
    part = PartOfReport("CHEST", FINDINGS, "", generated=generated("something else"))

    found = grounds([part], FINDINGS, "")

    assert [f.log_prob for one in found.sentences for f in one.findings] == [None, None]


def test_every_finding_has_its_cases_its_score_and_its_verdict() -> None:
    labels = ("pleural effusion left", "pneumothorax left")
    shares = np.zeros((1, 4, 2), np.float32)
    shares[0, 3, 0] = 3.0
    picture = Picture(labels, (1.0, 1.0), (1.0, 1.0), shares, [1])
    reports = [QuotedReport(1, sentences("There is a left pleural effusion. No pneumothorax."))]
    part = PartOfReport("CHEST", FINDINGS, IMPRESSION, reports, picture)

    effusion, pneumothorax, _ = (f for one in grounds([part], FINDINGS, IMPRESSION).sentences for f in one.findings)

    assert (effusion.verdict, pneumothorax.verdict) == (Verdict.SUPPORTED, Verdict.SUPPORTED)
    assert [(one.rank, one.stance, one.sentence) for one in effusion.cited] == [
        (1, "affirms", "There is a left pleural effusion.")
    ]
    assert effusion.in_image is not None
    assert pneumothorax.in_image is not None
    assert (effusion.in_image.region, pneumothorax.in_image.region) == ([0.5, 0.5, 0.5, 0.5], None)
    assert sum(effusion.in_image.shares) == pytest.approx(effusion.in_image.score)


def test_without_an_index_nothing_is_measurable_and_nothing_omitted() -> None:
    found = grounds([PartOfReport("CHEST", FINDINGS, IMPRESSION)], FINDINGS, IMPRESSION)

    assert {f.verdict for one in found.sentences for f in one.findings} == {Verdict.NOT_MEASURABLE}
    assert not found.omitted


def test_what_the_image_shows_beside_the_text_is_omitted() -> None:
    picture = Picture(("nodule right",), (1.0,), (1.0,), np.full((1, 4, 1), 0.5, np.float32), [1])

    (omitted,) = grounds([PartOfReport("CHEST", FINDINGS, "", picture=picture)], FINDINGS, "").omitted

    assert (omitted.name, omitted.side, omitted.in_image.score) == ("nodule", "right", 2.0)
    assert omitted.in_image.region is None
