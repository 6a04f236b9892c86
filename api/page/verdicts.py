"""Show the findings of a report with their verdicts, in words."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from db.reports.certificates import GROUPS
from db.states import Calibration, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from api.v1.schemas import Certificate, CertifiedGroup, Finding, Omission, Report, Sentence

#: Worst first: the order of the page, and which verdict stands for a sentence with several findings.
ORDER = (
    Verdict.CONTRADICTED,
    Verdict.UNSUPPORTED,
    Verdict.NOT_MEASURABLE,
    Verdict.PICTURE_ONLY,
    Verdict.SUPPORTED,
)
#: Words for a verdict on a finding, and on a denial.
AFFIRMED = {
    Verdict.CONTRADICTED: "contradicted: cases and image do not agree",
    Verdict.UNSUPPORTED: "unsupported: neither a quoted case nor the image shows it",
    Verdict.NOT_MEASURABLE: "not measurable in the image",
    Verdict.PICTURE_ONLY: "picture only: the image shows it, and no quoted case affirms it",
    Verdict.SUPPORTED: "supported by a quoted case and the image",
}
DENIED = {
    Verdict.CONTRADICTED: "contradicted: cases and image do not agree",
    Verdict.UNSUPPORTED: "unsupported: the image suggests it",
    Verdict.NOT_MEASURABLE: "not measurable in the image",
    Verdict.PICTURE_ONLY: "picture only: the image does not show it, and no quoted case denies it",
    Verdict.SUPPORTED: "supported by a quoted case and the image",
}
#: Standing of the verdicts, for the reader; the reason follows.
STANDING = {
    Calibration.UNCALIBRATED: "Verdicts are uncalibrated: how often they are wrong was not measured for this report. A"
    " supported finding can be false.",
    Calibration.SUSPENDED: "The certificate of the verdicts is suspended: treat them as uncalibrated.",
}


class Piece(NamedTuple):
    """A part of a paragraph: a sentence with its number from 1 in the report, or the text between sentences."""

    text: str
    sentence: Sentence | None
    number: int | None


class Mark(NamedTuple):
    """Region of a finding on an image, in percent of its sides, with the numbers of the sentences that state it."""

    name: str
    sentences: tuple[int, ...]
    left: float
    top: float
    width: float
    height: float


def standing(report: Report) -> str:
    """Return the standing of the verdicts of a report that has any."""
    if report.certificate is not None:
        return _certified(report.certificate)
    reason = f" Reason: {report.calibration_reason}." if report.calibration_reason else ""
    return STANDING.get(report.calibration or Calibration.UNCALIBRATED, "") + reason


def _certified(certificate: Certificate) -> str:
    """Return what a certificate promises, never without the set that it was measured on."""
    measured = [f"{name}: {_measured(certificate.groups[name])}" for name in GROUPS if name in certificate.groups]
    case_set = certificate.case_set
    seed = f", seed {case_set['seed']}" if "seed" in case_set else ""
    named = f"{case_set['studies']} {case_set['kind']} ({case_set['where']}{seed}, {case_set['date']})"
    phantoms = " Phantoms say nothing about the patients of a hospital." if case_set["kind"] == "phantoms" else ""
    return (
        "Verdicts are certified: of studies like those of the set at most"
        f" {certificate.alpha:.1%} have a wrong finding of a certified group that is not marked for checking"
        f" (confidence {1 - certificate.delta:.0%}). Set: {named}. Studies with such a finding: {'; '.join(measured)}."
        f"{phantoms} Denials and doubts are not certified."
    )


def _measured(group: CertifiedGroup) -> str:
    counted = f"{group.studies}, wrong in {group.wrong_studies}"
    return counted if group.margin is not None else f"{counted}, not certified"


def pieces(report: Report, section: str) -> list[list[Piece]]:
    """Return the paragraphs of a section as pieces; a report without stored sentences has one piece a paragraph."""
    text: str = getattr(report, section)
    sentences = [(number, one) for number, one in numbered(report) if one.section == section]
    # A sentence may go on in the next line.
    breaks = [
        at for at, char in enumerate(text) if char == "\n" and not any(one.start < at < one.end for _, one in sentences)
    ]
    found = [list(_pieces(text, sentences, *lines)) for lines in pairwise((-1, *breaks, len(text)))]
    return [paragraph for paragraph in found if paragraph]


def numbered(report: Report) -> list[tuple[int, Sentence]]:
    """Return the stored sentences with their numbers, as feedback names them."""
    return list(enumerate(report.sentences or (), start=1))


def _pieces(text: str, sentences: Sequence[tuple[int, Sentence]], before: int, end: int) -> Iterator[Piece]:
    at = before + 1
    for number, sentence in sentences:
        if at <= sentence.start < end:
            if between := text[at : sentence.start].strip():
                yield Piece(between, None, None)
            yield Piece(sentence.text, sentence, number)
            at = sentence.end
    if rest := text[at:end].strip():
        yield Piece(rest, None, None)


def words(finding: Finding) -> str:
    """Return the words for the verdict on a finding."""
    return (DENIED if finding.certainty == "absent" else AFFIRMED)[finding.verdict]


def mark(finding: Finding) -> str:
    """Return the words for the verdict inside the text: short, and never silent about a finding without a case."""
    if finding.flagged:
        return f"check: {finding.verdict}"
    alone = finding.verdict == Verdict.PICTURE_ONLY and finding.certainty != "absent"
    return f"{finding.verdict}: no quoted case affirms it" if alone else finding.verdict


def worst(sentence: Sentence) -> Finding | None:
    """Return the finding of a sentence whose verdict stands for all of them: a flagged one before any other."""
    return min(sentence.findings, key=order, default=None)


def marked(sentence: Sentence) -> str:
    """Return the mark of a sentence: that of its worst finding, or that it was not checked."""
    finding = worst(sentence)
    return mark(finding) if finding else "not checked"


def order(finding: Finding) -> tuple[bool, bool, int]:
    """Return the place of a finding among others: flagged ones first, denials last."""
    return not finding.flagged, finding.certainty == "absent", ORDER.index(finding.verdict)


def named(finding: Finding | Omission) -> str:
    """Return the name of a finding with its attributes: "small left pleural effusion", "left upper nodule"."""
    attributes = [getattr(finding, name, "") for name in ("size", "side", "zone")]
    return " ".join(filter(None, [*attributes, finding.name]))


def probability(log_prob: float) -> str:
    """Return a probability given by its natural logarithm, with two digits."""
    return f"{math.exp(log_prob):.2g}"


def marks(report: Report, image: int) -> list[Mark]:
    """Return the regions of affirmed findings on an image, one for each finding and side."""
    found: dict[str, Mark] = {}
    for number, finding in ((number, finding) for number, one in numbered(report) for finding in one.findings):
        score = finding.in_image
        if score and score.region and score.image == image:
            name = f"{finding.side} {finding.name}".strip()
            stated = (*(found[name].sentences if name in found else ()), number)
            sides = (score.region.left, score.region.top, score.region.width, score.region.height)
            found[name] = Mark(name, stated, *(round(100 * value, 2) for value in sides))
    return list(found.values())
