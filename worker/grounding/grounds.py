"""Ground the findings of a draft: its sentences, their findings, and what each of these rests on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from db.reports.grounds import CitedSentence, GroundedFinding, GroundedSentence, Grounds, InImage, OmittedFinding
from worker.findings.labeller import sentences
from worker.grounding.picture import Picture, PictureScore, region
from worker.grounding.support import citations, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.findings.labeller import Label, Mention
    from worker.findings.sections import Section
    from worker.grounding.support import QuotedReport


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """The model's answer with the offset in it at which each token ends, and the log-probability of each."""

    text: str
    ends: Sequence[int]
    log_probs: Sequence[float]

    def log_prob(self, start: int, end: int) -> float | None:
        """Return the log-probability of the tokens that overlap text[start:end]; None if there are none."""
        begins = [0, *self.ends]
        inside = [
            log_prob
            for begin, stop, log_prob in zip(begins, self.ends, self.log_probs, strict=False)
            # A token without text of its own is a part of the character that the next one completes.
            if begin < end and max(stop, begin + 1) > start
        ]
        return round(sum(inside), 4) if inside else None


@dataclass(frozen=True, slots=True)
class PartOfReport:
    """Texts of one part of a study, as in the report, and what they are compared with."""

    name: str
    findings: str
    impression: str
    reports: Sequence[QuotedReport] = ()
    picture: Picture = field(default_factory=Picture)
    generated: GeneratedText | None = None

    def text(self, section: Section) -> str:
        """Return the text of a section."""
        return self.impression if section == "impression" else self.findings

    def log_prob(self, section: Section, start: int, end: int) -> float | None:
        """Return the log-probability of text[start:end] of a section; None if the model did not write it."""
        if self.generated is None:
            return None
        # The impression stands last in the answer, and its words may also stand in the findings.
        find = self.generated.text.rfind if section == "impression" else self.generated.text.find
        offset = find(self.text(section))
        return None if offset < 0 else self.generated.log_prob(offset + start, offset + end)


def grounds_by_part(parts: Sequence[PartOfReport], findings: str, impression: str) -> list[Grounds]:
    """Return the grounds of each part of a report with these texts, which hold those of its *parts* in order."""
    grounded = [Grounds([], list(_omitted(part))) for part in parts]
    texts: tuple[tuple[Section, str], ...] = (("findings", findings), ("impression", impression))
    for section, whole in texts:
        after = 0
        for part, own in zip(parts, grounded, strict=True):
            if text := part.text(section):
                # Below its heading: a part may be named like a word of the part before.
                heading = f"{part.name}\n" if len(parts) > 1 else ""
                after = whole.index(heading + text, after) + len(heading)
                own.sentences.extend(_sentences(part, section, after))
                after += len(text)
    return grounded


def merged(of_parts: Sequence[Grounds]) -> Grounds:
    """Return the grounds of a report, its sentences in the order of its text."""
    stated = [sentence for part in of_parts for sentence in part.sentences]
    # Stable: "findings" precedes "impression", and parts keep their order.
    ordered = sorted(stated, key=lambda sentence: sentence.section)
    return Grounds(ordered, [omitted for part in of_parts for omitted in part.omitted])


def _sentences(part: PartOfReport, section: Section, offset: int) -> Iterator[GroundedSentence]:
    for sentence in sentences(part.text(section), section):
        stated = [_finding(part, section, mention, offset) for mention in sentence.mentions]
        yield GroundedSentence(section, sentence.start + offset, sentence.end + offset, stated)


def _finding(part: PartOfReport, section: Section, mention: Mention, offset: int) -> GroundedFinding:
    log_prob = part.log_prob(section, mention.start, mention.end)
    words = mention.start + offset, mention.end + offset
    return grounded_finding(mention.label, words, part.reports, part.picture, log_prob)


def grounded_finding(
    label: Label,
    words: tuple[int, int],
    reports: Sequence[QuotedReport],
    picture: Picture,
    log_prob: float | None = None,
) -> GroundedFinding:
    """Return a finding with what it rests on; *words* are the offsets of its words, which have *log_prob*."""
    cited, score = citations(label, reports), picture.score(label.finding, label.side)
    shown = None if score is None else score.suspected if label.certainty == "absent" else score.shown
    return GroundedFinding(
        label.finding,
        label.side,
        label.zone,
        label.size,
        label.certainty,
        *words,
        verdict(label, cited, shown=shown),
        # What is absent has no place.
        None if score is None else _in_image(score, located=label.certainty == "present"),
        log_prob,
        [CitedSentence(one.rank, one.stance, one.sentence) for one in cited],
    )


def _in_image(score: PictureScore, *, located: bool) -> InImage:
    shares = list(score.shares) if located else []
    box = region(shares)
    return InImage(score.score, score.threshold, score.image, shares, None if box is None else list(box))


def _omitted(part: PartOfReport) -> Iterator[OmittedFinding]:
    said = [
        mention.label
        for text in (part.findings, part.impression)
        for sentence in sentences(text)
        for mention in sentence.mentions
    ]
    for score in part.picture.omitted(said):
        # Only what the text affirms has a place on the page.
        yield OmittedFinding(score.finding, score.side, _in_image(score, located=False))
