"""Label the findings in a report's text, with certainty, side, zone and size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from worker.findings import lexicon, triggers
from worker.findings.attributes import Context, last_side, with_both_sides
from worker.findings.certainty import blanked, without_false_negations
from worker.findings.certainty import certainty as certainty_of
from worker.findings.sections import parts
from worker.findings.spelling import plain

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

    from worker.findings.certainty import Certainty
    from worker.findings.sections import Part, Section
    from worker.findings.spelling import Plain

#: Changes with every rule and word; stored beside labels, so that labels of two versions are not compared.
LABELLER_VERSION = "10"


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
    found, side, readable, denies = [], "", "", False
    for part in parts(text, section):
        denies = part.continues and (denies or triggers.NEGATION.search(readable) is not None)
        words = plain(text[part.start : part.end])
        readable = without_false_negations(with_both_sides(words.text))
        own = _mentions(readable, side, part, words)
        mentions = tuple(map(_doubted, own) if denies else own)
        found.append(Sentence(part.section, part.start, part.end, text[part.start : part.end], mentions))
        side = last_side(readable, side)
    return tuple(found)


def _mentions(sentence: str, earlier_side: str, part: Part, words: Plain) -> Iterator[Mention]:
    """Yield the mentions in a sentence; of the context only uncertain ones."""
    for label, start, end in _labelled(sentence, earlier_side):
        if part.section != "context" or label.certainty == "uncertain":
            first, last = words.span(start, end)
            yield Mention(label, part.start + first, part.start + last)


def _doubted(mention: Mention) -> Mention:
    """Return an affirmed mention as an uncertain one: a denial before the division of its sentence may reach it."""
    if mention.label.certainty != "present":
        return mention
    return replace(mention, label=replace(mention.label, certainty="uncertain"))


def labels(text: str) -> list[Label]:
    """Return every mention of a finding in *text*, in order; a finding on both sides has one label for each."""
    return [mention.label for sentence in sentences(text) for mention in sentence.mentions]


def named(text: str) -> list[str]:
    """Return the findings that *text* names, each once, with any certainty: those of a question."""
    mentions = lexicon.MENTION.finditer(plain(text).text)
    return list(dict.fromkeys(lexicon.FINDINGS[int(str(mention.lastgroup)[1:])][0] for mention in mentions))


def present(text: str) -> set[Label]:
    """Return the affirmed findings, each once: of a mention in findings and one in impression the more specific."""
    affirmed = {label for label in labels(text) if label.certainty == "present"}
    return {label for label in affirmed if not any(_is_more_specific(other, label) for other in affirmed)}


def finding_names(text: str) -> set[str]:
    """Return the affirmed findings as "name side": the labels of a reference case."""
    return {f"{label.finding} {label.side}" for label in present(text)}


def mentions_prior(text: str) -> bool:
    """Return whether *text* compares with an earlier examination, which must be invented: the model is given none."""
    return triggers.PRIOR_STUDY.search(text.lower()) is not None


def _is_more_specific(other: Label, label: Label) -> bool:
    """Return whether *other* is the same finding with more attributes."""
    if other == label or other.finding != label.finding:
        return False
    pairs = ((other.side, label.side), (other.zone, label.zone), (other.size, label.size))
    return all(mine in ("", theirs) for theirs, mine in pairs)


def _labelled(sentence: str, earlier_side: str) -> Iterator[tuple[Label, int, int]]:
    """Yield each label of a sentence in plain words, with the offsets of the finding's words."""
    found = [*lexicon.MENTION.finditer(sentence)]
    for number, mention in enumerate(found):
        before = found[number - 1].end() if number else 0
        following = found[number + 1] if number + 1 < len(found) else None
        after = following.start() if following else len(sentence)
        certainty = certainty_of(sentence, mention, after)
        if certainty is None:
            continue
        finding = lexicon.FINDINGS[int(str(mention.lastgroup)[1:])][0]
        none = lexicon.NONE_ON.search(sentence, mention.end(), after)
        own = blanked(sentence, [none.span()]) if none and none["first"] else sentence
        context = Context(own, mention, before, after, following, earlier_side)
        for side, zone in context.places(finding):
            yield Label(finding, side, zone, context.nearest(lexicon.SIZE), certainty), *mention.span()
        for side, its_own in _other_sides(sentence, mention, (before, after), certainty):
            yield Label(finding, side, certainty=its_own), *mention.span()
        if none:
            yield Label(finding, none["side"] or none["first"], certainty="absent"), *mention.span()


def _other_sides(
    sentence: str, mention: re.Match[str], bounds: tuple[int, int], certainty: Certainty
) -> Iterator[tuple[str, Certainty]]:
    """Yield the other sides that words around a mention affirm or deny, with their certainty."""
    before, after = bounds
    told: Certainty = "present" if certainty == "absent" else certainty
    if one := lexicon.OTHER_ONE.search(sentence, mention.end(), after):
        gone, kept = triggers.POST_NEGATION.search(one.group()), triggers.PERSISTS.search(one.group())
        yield one["side"], "absent" if gone else told if kept else certainty
    if one := lexicon.ONE_ON.search(sentence, mention.end(), after):
        yield one["side"] or one["first"], told
    if denied := lexicon.BUT_NO.search(sentence[before : mention.start()]):
        yield denied["side"], told
