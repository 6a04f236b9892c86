"""Reports lose what must not be quoted before they are stored, keep their findings, and every removal is returned."""

from __future__ import annotations

import time

import pytest

from worker.findings.identifying import kinds
from worker.findings.labeller import labels, mentions_prior, present
from worker.retrieval.admission import cleaned


def test_a_plain_report_is_unchanged() -> None:
    report = "Findings: Small left pleural effusion. No pneumothorax.\nImpression: Small left pleural effusion."

    assert cleaned(report) == (report, [])


@pytest.mark.parametrize(
    "text",
    [
        "Discussed with Dr. Miller at 10:30 am.",
        "Patient name: Smith^John.",
        "MRN 1234567.",
        "Seen on 3/4/2020.",
        "Called 12 March 2021.",
        "Call +1 (555) 123-4567 for questions.",
        "Write to a.b@hospital.org.",
        "Reviewed by Dr. \u00d6zdemir-Miller.",
        "Reported by: A. Miller.",
        "Patient: Miller, Hans.",
        "\uff24\uff52. Smith has seen it.",
        "D\u200br. Smith has seen it.",
        "Tel. 089/5551234.",
        "Bilder von Herrn Miller.",
    ],
)
def test_identifying_text_is_removed_and_returned(text: str) -> None:
    report, removed = cleaned(f"Findings: No effusion. {text} Impression: Normal chest.")

    assert [reason for reason, _ in removed] == ["may identify a person"] * len(removed)
    assert removed
    for word in ("Miller", "Smith", "1234567", "3/4/2020", "2021", "555", "@"):
        assert word not in report
    assert "No effusion." in report
    assert "Normal chest." in report


def test_statement_that_ends_with_a_name_keeps_its_finding_and_stays_a_sentence() -> None:
    report, _ = cleaned("Small left pleural effusion in Mr. O'Neil, as of March 2021. No pneumothorax.")

    assert not {"Neil", "2021", "Mr"} & set(report.replace(".", " ").split())
    assert {(one.finding, one.side, one.certainty) for one in labels(report)} == {
        ("pleural effusion", "left", "present"),
        ("pneumothorax", "", "absent"),
    }


@pytest.mark.parametrize("token", ["[**Known lastname 123**]", "___", "XXXX", "<NAME>", "[REDACTED]"])
def test_placeholders_are_removed(token: str) -> None:
    report, removed = cleaned(f"Findings: Left pacemaker by {token}. Impression: Left pacemaker.")

    assert token not in report
    assert [found for _, found in removed] == [token]
    assert {label.finding for label in present(report)} == {"pacemaker"}


@pytest.mark.parametrize(
    "sentence",
    [
        "Small left pleural effusion, increased since the prior study.",
        "Unchanged small left pleural effusion compared to the previous radiograph.",
        "New since the prior study: left pleural effusion.",
        "New left pleural effusion.",
        "Compared with the prior examination, there is a small left pleural effusion.",
    ],
)
def test_a_comparison_goes_and_its_finding_stays(sentence: str) -> None:
    report, removed = cleaned(f"Findings: {sentence} Impression: See above.")

    assert removed[0].reason == "comparison with an earlier examination"
    assert not mentions_prior(report)
    assert {(label.finding, label.side) for label in present(report)} == {("pleural effusion", "left")}


def test_denial_of_something_new_stays_a_denial() -> None:
    report, _ = cleaned("No new nodule.")

    assert report == "No nodule."


@pytest.mark.parametrize(("before", "repeated"), [("MRN", " "), ("", "["), ("", "dr med ")])
def test_text_that_resembles_identifying_text_is_searched_in_a_short_time(before: str, repeated: str) -> None:
    text = before + repeated * (20_000 // len(repeated))
    begin = time.process_time()

    kinds(text)

    # With unlimited repetitions: 2 to 8 s.
    assert time.process_time() - begin < 2
