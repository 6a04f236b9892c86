"""List the sentences of a report, those to check first, and write the report as text that can be copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from api.page import display, verdicts
from db.states import CheckState, FeedbackKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from api.v1.schemas import Finding, Report, Sentence
    from db.models import ReportFeedback

#: Acts of readers that are shown beside the text.
JUDGEMENTS = (FeedbackKind.ACCEPTED, FeedbackKind.EDITED, FeedbackKind.REJECTED)
#: Key of acts on the whole report.
WHOLE = 0
SECTIONS = ("findings", "impression")

Acts: TypeAlias = "Mapping[int, Sequence[ReportFeedback]]"


class Listed(NamedTuple):
    """A sentence with its number in the report, its findings, worst first, and the problems that name one of them."""

    number: int
    sentence: Sentence
    findings: list[Finding]
    problems: list[str]
    images: list[int]


def listed(report: Report) -> list[Listed]:
    """Return the sentences of a report: flagged ones, then those not checked, then the others."""
    return sorted((_listed(report, *one) for one in verdicts.numbered(report)), key=_doubt)


def _listed(report: Report, number: int, sentence: Sentence) -> Listed:
    findings = sorted(sentence.findings, key=verdicts.order)
    names = {finding.name for finding in findings}
    named = [problem for problem in problems(report) if any(name in problem.lower() for name in names)]
    images = sorted({finding.in_image.image for finding in findings if finding.in_image})
    return Listed(number, sentence, findings, named, images)


def _doubt(one: Listed) -> tuple[int, tuple[bool, bool, int]]:
    if not one.findings:
        return 1, (False, False, 0)
    return (0 if one.sentence.flagged else 2), verdicts.order(one.findings[0])


def problems(report: Report) -> list[str]:
    """Return the problems that the checks of a report found."""
    found = [check for check in report.checks if check.state in {CheckState.WARNING, CheckState.NOTICE}]
    return [f"{check.state.capitalize()}: {problem}" for check in found for problem in check.sentences]


def judged(acts: Sequence[ReportFeedback], version: int) -> Acts:
    """Return the last act of each reader on each sentence of a version; at WHOLE those on the whole report."""
    last = {
        (act.sentence or WHOLE, act.author): act for act in acts if act.version == version and act.kind in JUDGEMENTS
    }
    found: dict[int, list[ReportFeedback]] = {}
    for (number, _), act in last.items():
        found.setdefault(number, []).append(act)
    return found


def plain(report: Report, acts: Acts) -> str:
    """Return the report as text to copy: banner, version and time first, and no sentence without its mark."""
    return "\n".join(_lines(report, acts))


def _lines(report: Report, acts: Acts) -> Iterator[str]:
    yield report.banner
    yield f"Version {report.version}, written {display.moment(report.created_at)}. Based on {report.basis}."
    if report.outdated:
        yield "Images arrived after this report was written. It does not cover them."
    for act in acts.get(WHOLE, ()):
        yield f"This report was {act.kind} by {act.author}."
    for section in SECTIONS:
        yield ""
        yield section.capitalize()
        for paragraph in verdicts.pieces(report, section):
            yield " ".join(_marked(piece, acts) for piece in paragraph)
    yield ""
    yield verdicts.standing(report) if report.sentences is not None else "No sentence of this report was checked."
    yield from report.limitations
    yield from problems(report)


def _marked(piece: verdicts.Piece, acts: Acts) -> str:
    text = " ".join(piece.text.split())
    if piece.sentence is None or piece.number is None:
        return text
    done = [f" [{act.kind} by {act.author}{': ' * bool(act.text)}{act.text}]" for act in acts.get(piece.number, ())]
    return f"{text} [{verdicts.marked(piece.sentence)}]{''.join(done)}"
