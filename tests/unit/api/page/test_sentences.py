"""Order of the sentences on the page, and the text that is copied."""

from __future__ import annotations

import datetime as dt

from api.page.sentences import Acts, judged, listed, plain
from api.v1.schemas import CheckResult, Finding, Report, Sentence
from db.models import ReportFeedback
from db.reports.versions import BANNER
from db.states import Calibration, CheckState, FeedbackKind, Verdict

TEXT = "Left effusion. Normal bones. Small nodule."
NOON = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC)


def finding(name: str, verdict: Verdict, *, flagged: bool) -> Finding:
    return Finding.model_construct(
        name=name, certainty="present", verdict=verdict, flagged=flagged, in_image=None, affirmed_by=[], denied_by=[]
    )


def sentence(text: str, *findings: Finding) -> Sentence:
    start = TEXT.index(text)
    flagged = any(one.flagged for one in findings)
    return Sentence(
        section="findings", start=start, end=start + len(text), text=text, flagged=flagged, findings=list(findings)
    )


def report(*, outdated: bool = False) -> Report:
    return Report.model_construct(
        version=2,
        created_at=NOON,
        basis="1 of 1 images",
        outdated=outdated,
        findings=TEXT,
        impression="",
        calibration=Calibration.UNCALIBRATED,
        calibration_reason="",
        certificate=None,
        limitations=["cut short at 200 tokens"],
        checks=[
            CheckResult(name="critical", state=CheckState.NOTICE, sentences=["Critical finding: Nodule."]),
            CheckResult(name="size", state=CheckState.PASSED, sentences=[]),
        ],
        sentences=[
            sentence("Left effusion.", finding("effusion", Verdict.SUPPORTED, flagged=False)),
            sentence("Normal bones."),
            sentence("Small nodule.", finding("nodule", Verdict.UNSUPPORTED, flagged=True)),
        ],
    )


def act(kind: FeedbackKind, number: int | None, author: str = "key reader", version: int = 2) -> ReportFeedback:
    return ReportFeedback(version=version, kind=kind, sentence=number, text="", author=author)


def copied(*acts: ReportFeedback, outdated: bool = False) -> list[str]:
    found: Acts = judged(acts, 2)
    return plain(report(outdated=outdated), found).splitlines()


def test_sentences_without_support_come_first_and_have_the_problems_that_name_their_findings() -> None:
    found = listed(report())

    assert [one.number for one in found] == [3, 2, 1]
    assert [one.problems for one in found] == [["Notice: Critical finding: Nodule."], [], []]


def test_copied_text_begins_with_banner_version_and_time_and_marks_every_sentence() -> None:
    lines = copied()

    assert lines[0] == BANNER
    assert lines[1].startswith("Version 2, written 2026-11-28 ")
    assert "Left effusion. [supported] Normal bones. [not checked] Small nodule. [check: unsupported]" in lines
    assert lines[-2:] == ["cut short at 200 tokens", "Notice: Critical finding: Nodule."]
    assert any("uncalibrated" in line for line in lines)


def test_copied_text_of_an_outdated_report_says_so() -> None:
    assert "Images arrived after this report was written. It does not cover them." in copied(outdated=True)


def test_copied_text_has_the_last_act_of_every_reader_on_this_version() -> None:
    rejected, accepted = FeedbackKind.REJECTED, FeedbackKind.ACCEPTED
    lines = copied(
        act(rejected, 1),
        act(accepted, 1),
        act(rejected, 1, "key other"),
        act(rejected, 2, version=1),
        act(rejected, None),
    )

    assert "This report was rejected by key reader." in lines
    [text] = [line for line in lines if line.startswith("Left")]
    assert text.startswith(
        "Left effusion. [supported] [accepted by key reader] [rejected by key other] Normal bones. [not checked] Small"
    )
