"""The prompt of a report, its quoted cases, and the sections of a report's text."""

from __future__ import annotations

from tests.unit.worker.prompting.test_wording import MEDDR_REPORT
from worker.prompting.report import MAX_EXCERPT_CHARACTERS, QuotedCase, excerpt, report_prompt, split_report


def test_similar_cases_follow_the_task_most_similar_first() -> None:
    prompt = report_prompt("CR", "CHEST", [QuotedCase("No\neffusion.", 0.9), QuotedCase("Effusion.", 0.7)])

    quoted = "The reports of the most similar cases are: (1, 0.90) No effusion. (2, 0.70) Effusion."
    assert prompt == f"{MEDDR_REPORT} {quoted}"


def test_impression_of_a_case_is_quoted() -> None:
    assert excerpt("Findings: Opacity on the left. Impression: Effusion.") == "Effusion."


def test_long_case_is_cut_at_a_word() -> None:
    quoted = excerpt("effusion " * 200)

    assert quoted.endswith("effusion...")
    assert len(quoted) <= MAX_EXCERPT_CHARACTERS


def test_report_is_split_at_its_headings() -> None:
    text = "FINDINGS: Clear lungs. No effusion.\n\nImpression: Normal."

    assert split_report(text) == ("Clear lungs. No effusion.", "Normal.")


def test_report_without_headings_is_all_findings() -> None:
    assert split_report(" Clear lungs. ") == ("Clear lungs.", "")
