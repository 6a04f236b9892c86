"""Figures on what the findings of written reports rest on: citations, verdicts, scores and probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, get_args

import numpy as np

from db.reports.grounds import is_flagged
from db.states import Verdict
from worker.evaluation.sentence_figures import is_right
from worker.findings.certainty import Certainty
from worker.findings.labeller import Label, sentences

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from db.reports.grounds import CitedSentence, GroundedFinding, Grounds

#: Of a planted wrong citation.
OTHER_SIDE = {"left": "right", "right": "left"}
#: Bins of equal width for the calibration error.
BINS = 10


@dataclass(frozen=True, slots=True)
class GroundedReport:
    """Grounds of a written report, the labels that its reference affirms, and the quoted reports by rank."""

    grounds: Grounds
    wanted: frozenset[Label]
    quoted: Sequence[str]

    def findings(self, certainty: str = "present") -> list[GroundedFinding]:
        """Return the findings with a certainty, in the order of the text."""
        stated = chain.from_iterable(sentence.findings for sentence in self.grounds.sentences)
        return [finding for finding in stated if finding.certainty == certainty]


def figures(reports: Sequence[GroundedReport]) -> dict[str, float]:
    """Return the figures of a run; nan where nothing could be counted."""
    affirmed = _judged(reports)
    scored = [(f.in_image.score - f.in_image.threshold, right) for f, right in affirmed if f.in_image]
    spoken = [(math.exp(f.log_prob), right) for f, right in affirmed if f.log_prob is not None]
    return {
        "citation recall": _mean(any(c.stance == "affirms" for c in f.cited) for f, _ in affirmed),
        "citation precision": _mean(_is_right_citation(*cited) for report in reports for cited in _citations(report)),
        "not measurable": _mean(f.verdict is Verdict.NOT_MEASURABLE for f, _ in affirmed),
        "planted wrong citations found": _mean(found for report in reports for found in _planted_found(report)),
        **marks(reports),
        "risk-coverage, picture score": risk_coverage(scored),
        "risk-coverage, probability": risk_coverage(spoken),
        "calibration error, probability": calibration_error(spoken),
    }


def marks(reports: Sequence[GroundedReport]) -> dict[str, float]:
    """Return the shares of the wrong and of the right findings and sentences that are marked."""
    affirmed = _judged(reports)
    return {
        "wrong findings marked": _mean(_is_marked(f) for f, right in affirmed if not right),
        "right findings marked": _mean(_is_marked(f) for f, right in affirmed if right),
        "wrong sentences marked": _mean(_marked_sentences(reports, right=False)),
        "right sentences marked": _mean(_marked_sentences(reports, right=True)),
    }


def wrong_statements(reports: Sequence[GroundedReport]) -> tuple[int, int]:
    """Return the numbers of wrong affirmed findings and of wrong sentences."""
    return sum(not right for _, right in _judged(reports)), len([*_marked_sentences(reports, right=False)])


def _judged(reports: Sequence[GroundedReport]) -> list[tuple[GroundedFinding, bool]]:
    """Return the affirmed findings and whether each is right."""
    return [(f, is_right(_label(f), report.wanted)) for report in reports for f in report.findings()]


def wrong_citations(report: GroundedReport) -> list[tuple[GroundedFinding, CitedSentence]]:
    """Return the citations whose case does not state what they are cited for."""
    cited = _citations(report)
    return [(finding, citation) for finding, citation, text in cited if not _is_right_citation(finding, citation, text)]


def _planted_found(report: GroundedReport) -> Iterator[bool]:
    """Yield for each wrong citation that is made of one of the report whether it is found."""
    for finding, cited, text in _citations(report):
        if finding.side in OTHER_SIDE and cited.stance == "affirms":
            yield not _is_right_citation(replace(finding, side=OTHER_SIDE[finding.side]), cited, text)
        stance = "affirms" if cited.stance == "denies" else "denies"
        yield not _is_right_citation(finding, replace(cited, stance=stance), text)
        yield not _is_right_citation(finding, replace(cited, sentence=cited.sentence[1:]), text)
        # The sentence of one case, cited of another that does not have it.
        for other in report.quoted:
            if cited.sentence not in other:
                yield not _is_right_citation(finding, cited, other)


def _citations(report: GroundedReport) -> Iterator[tuple[GroundedFinding, CitedSentence, str]]:
    """Yield each citation with its finding and the quoted report; no text for a rank that was not quoted."""
    for sentence in report.grounds.sentences:
        for finding in sentence.findings:
            for cited in finding.cited:
                known = 1 <= cited.rank <= len(report.quoted)
                yield finding, cited, report.quoted[cited.rank - 1] if known else ""


def _is_right_citation(finding: GroundedFinding, cited: CitedSentence, text: str) -> bool:
    """Return whether the quoted report holds the sentence, and the sentence states the finding in its place."""
    certainty = "present" if cited.stance == "affirms" else "absent"
    mentions = [m for sentence in sentences(text) if sentence.text == cited.sentence for m in sentence.mentions]
    stated = [m.label for m in mentions if m.label.finding == finding.name and m.label.certainty == certainty]
    return any(_is_in_place(label, finding, cited.stance) for label in stated)


def _is_in_place(label: Label, finding: GroundedFinding, stance: str) -> bool:
    """Return whether a label of a case speaks of the place of a finding.

    An affirmation has the same side; one that opposes a denial without a side has any. A denial has the same place or
    none.
    """
    if stance == "denies":
        return label.side in ("", finding.side) and label.zone in ("", finding.zone)
    anywhere = finding.certainty == "absent" and not finding.side
    same_zone = label.zone == finding.zone or not (label.zone and finding.zone)
    return (anywhere or label.side == finding.side) and same_zone


def _marked_sentences(reports: Sequence[GroundedReport], *, right: bool) -> Iterator[bool]:
    """Yield for each right, or each wrong, sentence with a stated finding whether one of its findings is marked."""
    for report in reports:
        for sentence in report.grounds.sentences:
            stated = [finding for finding in sentence.findings if finding.certainty != "uncertain"]
            if stated and right == all(is_right(_label(finding), report.wanted) for finding in stated):
                yield any(map(_is_marked, stated))


def _is_marked(finding: GroundedFinding) -> bool:
    """Return whether the page tells the reader to check a finding first."""
    return is_flagged(finding.certainty, finding.verdict, finding.cited)


def _label(finding: GroundedFinding) -> Label:
    certainty = next(known for known in get_args(Certainty) if known == finding.certainty)
    return Label(finding.name, finding.side, finding.zone, finding.size, certainty)


def risk_coverage(scored: Sequence[tuple[float, bool]]) -> float:
    """Return the area under the risk-coverage curve of findings (score, right): mean error of the k highest, over k.

    0 if nothing is wrong; lower is better (Geifman and El-Yaniv 2017). nan without findings.
    """
    if not scored:
        return math.nan
    ordered = sorted(scored, key=lambda one: -one[0])
    wrong = np.cumsum([not right for _, right in ordered])
    return float(np.mean(wrong / np.arange(1, len(ordered) + 1)))


def calibration_error(spoken: Sequence[tuple[float, bool]]) -> float:
    """Return the expected calibration error of (probability, right) in BINS bins; nan without findings."""
    if not spoken:
        return math.nan
    probabilities = np.array([probability for probability, _ in spoken])
    right = np.array([correct for _, correct in spoken], float)
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = [abs(float((right[bins == n] - probabilities[bins == n]).sum())) for n in range(BINS)]
    return sum(gaps) / len(spoken)


def _mean(values: Iterable[bool]) -> float:
    counted = list(values)
    return float(np.mean(counted)) if counted else math.nan
