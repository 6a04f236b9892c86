"""Support of a finding: the quoted cases that affirm or deny it, and the verdict.

Support by cases never makes a finding more certain: with the cases of another patient it is highest for the findings
that only they have. A verdict is favourable only where the image itself shows the finding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from db.states import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.findings.labeller import Label, Sentence

Stance = Literal["affirms", "denies"]
STANCES: tuple[Stance, ...] = ("affirms", "denies")


@dataclass(frozen=True, slots=True)
class QuotedReport:
    """The whole report of a quoted case; `rank` is its number among the cases of the report, from 1, best first."""

    rank: int
    sentences: Sequence[Sentence]


@dataclass(frozen=True, slots=True)
class Citation:
    """A sentence of a quoted case that affirms or denies a finding."""

    rank: int
    stance: Stance
    sentence: str


def citations(label: Label, reports: Sequence[QuotedReport]) -> list[Citation]:
    """Return the sentences that affirm or deny the finding of *label*: at most one of each stance from each case.

    The certainty of *label* does not matter. A case affirms only the same side, and the same zone where both tell it;
    of several sentences the one that also tells the zone is taken.
    """
    pairs: list[tuple[QuotedReport, Stance]] = [(report, stance) for report in reports for stance in STANCES]
    found = [Citation(report.rank, stance, _sentence(label, report.sentences, stance)) for report, stance in pairs]
    return [citation for citation in found if citation.sentence]


def _sentence(label: Label, sentences: Sequence[Sentence], stance: Stance) -> str:
    agrees = affirms if stance == "affirms" else denies
    said = [(sentence.text, m.label) for sentence in sentences for m in sentence.mentions if agrees(m.label, label)]
    return max(said, key=lambda one: one[1].zone == label.zone, default=("",))[0]


def affirms(other: Label, label: Label) -> bool:
    """Return whether *other*, of an earlier case, affirms the finding of *label*."""
    if other.certainty != "present" or other.finding != label.finding:
        return False
    if label.certainty == "absent":
        # "No effusion" is opposed by one on any side.
        return label.side in ("", other.side) and label.zone in ("", other.zone)
    return other.side == label.side and (other.zone == label.zone or not (other.zone and label.zone))


def denies(other: Label, label: Label) -> bool:
    """Return whether *other*, of an earlier case, denies the finding of *label*: not another side or zone."""
    wider = other.side in ("", label.side) and other.zone in ("", label.zone)
    return other.certainty == "absent" and other.finding == label.finding and wider


def verdict(label: Label, cited: Sequence[Citation], *, shown: bool | None) -> Verdict:
    """Return the verdict on a finding; *shown* is whether the image shows it, None if not measurable.

    | the quoted cases         | image agrees | image disagrees | not measurable |
    | ------------------------ | ------------ | --------------- | -------------- |
    | agree, the nearest first | supported    | contradicted    | not measurable |
    | agree, a nearer does not | contradicted | contradicted    | contradicted   |
    | disagree                 | picture only | contradicted    | contradicted   |
    | say nothing              | picture only | unsupported     | not measurable |

    A denial agrees with cases that deny and an image that does not show the finding; then no case contradicts it.
    """
    denial = label.certainty == "absent"
    wanted = "denies" if denial else "affirms"
    agreeing = [citation.rank for citation in cited if citation.stance == wanted]
    opposing = [citation.rank for citation in cited if citation.stance != wanted]
    disputed = bool(agreeing and opposing) and min(opposing) <= min(agreeing)
    if denial and shown is False:
        # Most patients lack most of what an earlier case had.
        return Verdict.SUPPORTED if agreeing and not disputed else Verdict.PICTURE_ONLY
    if disputed:
        return Verdict.CONTRADICTED
    if shown is None:
        return Verdict.CONTRADICTED if opposing and not agreeing else Verdict.NOT_MEASURABLE
    if shown == denial:
        return Verdict.CONTRADICTED if cited else Verdict.UNSUPPORTED
    return Verdict.SUPPORTED if agreeing else Verdict.PICTURE_ONLY
