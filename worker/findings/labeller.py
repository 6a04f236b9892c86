"""Label the findings in a report's text, with certainty, side, zone and size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.findings import lexicon
from worker.findings.attributes import Context
from worker.findings.certainty import certainty as certainty_of
from worker.findings.sections import parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.findings.certainty import Certainty
    from worker.findings.sections import Part, Section

#: Changes with every rule and word; stored beside labels, so that labels of two versions are not compared.
LABELLER_VERSION = "2"


@dataclass(frozen=True, slots=True, order=True)
class Label:
    """A mention of a finding; side, zone and size are empty if not stated."""

    finding: str
    side: str = ""
    zone: str = ""
    size: str = ""
    certainty: Certainty = "present"

    @property
    def strict(self) -> tuple[str, str, str]:
        """Finding, side and zone, in which two reports must agree."""
        return self.finding, self.side, self.zone


@dataclass(frozen=True, slots=True)
class Mention:
    """A finding that a sentence states, and the offsets of its words; one on both sides is two mentions."""

    label: Label
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a report: ``text[start:end]``, without blanks at its ends."""

    section: Section
    start: int
    end: int
    text: str
    mentions: tuple[Mention, ...]


def sentences(text: str, section: Section = "findings") -> tuple[Sentence, ...]:
    """Return the sentences of a report, or of one of its sections, with the findings that each states.

    *section* is where *text* begins; a heading in it begins another. History, indication and comparison neither affirm
    nor deny: their mentions are uncertain ones only.
    """
    return tuple(_sentence(text, part) for part in parts(text, section))


def _sentence(text: str, part: Part) -> Sentence:
    words = text[part.start : part.end]
    mentions = (
        Mention(label, part.start + start, part.start + end) for label, start, end in _of_sentence(_lowered(words))
    )
    reported = part.section != "context"
    kept = tuple(mention for mention in mentions if reported or mention.label.certainty == "uncertain")
    return Sentence(part.section, part.start, part.end, words, kept)


def _lowered(text: str) -> str:
    """Return *text* in lower case, of the same length."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def labels(text: str) -> list[Label]:
    """Return every mention of a finding in *text*, in order; a finding on both sides has one label for each."""
    return [mention.label for sentence in sentences(text) for mention in sentence.mentions]


def present(text: str) -> set[Label]:
    """Return the affirmed findings, each once: of a mention in findings and one in impression the more specific."""
    affirmed = {label for label in labels(text) if label.certainty == "present"}
    return {label for label in affirmed if not any(_is_more_specific(other, label) for other in affirmed)}


def finding_names(text: str) -> set[str]:
    """Return the affirmed findings as "name side": the labels of a reference case."""
    return {f"{label.finding} {label.side}" for label in present(text)}


def mentions_prior(text: str) -> bool:
    """Return whether *text* compares with an earlier examination, which must be invented: the model is given none."""
    return lexicon.PRIOR_STUDY.search(text.lower()) is not None


def _is_more_specific(other: Label, label: Label) -> bool:
    """Return whether *other* is the same finding with more attributes."""
    if other == label or other.finding != label.finding:
        return False
    pairs = ((other.side, label.side), (other.zone, label.zone), (other.size, label.size))
    return all(mine in ("", theirs) for theirs, mine in pairs)


def _of_sentence(sentence: str) -> Iterator[tuple[Label, int, int]]:
    # Blanked, not removed, so that offsets stay valid.
    sentence = lexicon.PSEUDO_NEGATION.sub(lambda match: " " * len(match.group()), sentence)
    mentions = list(lexicon.MENTION.finditer(sentence))
    for number, mention in enumerate(mentions):
        before = mentions[number - 1].end() if number else 0
        following = mentions[number + 1] if number + 1 < len(mentions) else None
        after = following.start() if following else len(sentence)
        finding = lexicon.FINDINGS[int(str(mention.lastgroup)[1:])][0]
        certainty = certainty_of(sentence, mention, after)
        context = Context(sentence, mention, before, after, following)
        for side, zone in context.places(finding):
            label = Label(finding, side, zone, context.nearest(lexicon.SIZE), certainty)
            yield label, mention.start(), mention.end()
