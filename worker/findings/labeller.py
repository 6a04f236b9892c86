"""Label the findings in a report's text, with certainty, side, zone and size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from worker.findings import lexicon, triggers
from worker.findings.attributes import Context, last_side, with_both_sides
from worker.findings.certainty import blanked, without_false_negations
from worker.findings.certainty import certainty as certainty_of
from worker.findings.corrections import is_correction, retracted, without_retracted
from worker.findings.listing import listed, verdict
from worker.findings.replies import only_names, reply
from worker.findings.sections import parts
from worker.findings.sides import EXCEPT_ONE, NONE_ON, ONE_ON, other_sides
from worker.findings.spelling import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from worker.findings.certainty import Certainty
    from worker.findings.listing import Verdict
    from worker.findings.sections import Part, Section
    from worker.findings.spelling import Plain

    #: Verdict of a list on the mention at an offset.
    OfList = Callable[[int], Verdict | None]

#: Changes with every rule and word; stored beside labels, so that labels of two versions are not compared.
LABELLER_VERSION = "14"
#: Texts whose sentences are kept in memory: a report with three similar cases reads about 12, 76 times in all.
MAX_CACHED_TEXTS = 128


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
    return _sentences(text, section)


@lru_cache(maxsize=MAX_CACHED_TEXTS)
def _sentences(text: str, section: Section) -> tuple[Sentence, ...]:
    found: list[Sentence] = []
    words: list[str] = []
    side = ""
    for divided in _undivided(parts(text, section)):
        read = [_read(text, part) for part in divided]
        lists = listed(" ".join(reading.words for reading in read))
        at, denies = 0, False
        for reading in read:
            own = _mentions(reading, side, partial(verdict, lists, at))
            found.append(reading.sentence(text, map(_doubted, own) if denies else own))
            words.append(reading.words)
            denies = denies or triggers.NEGATION.search(reading.words) is not None
            side = last_side(reading.words, side)
            at += len(reading.words) + 1
    _answer(found, words)
    _retract(found, words)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Reading:
    """A part of a text, its plain words with their offsets, and the words that the rules read, of equal length."""

    part: Part
    plain: Plain
    words: str

    def sentence(self, text: str, mentions: Iterable[Mention]) -> Sentence:
        start, end = self.part.start, self.part.end
        return Sentence(self.part.section, start, end, text[start:end], tuple(mentions))


def _read(text: str, part: Part) -> _Reading:
    words = plain(text[part.start : part.end])
    return _Reading(part, words, without_false_negations(with_both_sides(without_retracted(words.text))))


def _undivided(found: Iterable[Part]) -> Iterator[list[Part]]:
    """Yield the parts of each sentence."""
    divided: list[Part] = []
    for part in found:
        if divided and not part.continues:
            yield divided
            divided = []
        divided.append(part)
    if divided:
        yield divided


def _answer(found: list[Sentence], words: list[str]) -> None:
    """Change in *found* what later sentences deny or affirm: "Effusion. Nodule. None of these is seen."."""
    for number, sentence in enumerate(found[1:], 1):
        after_colon = words[number - 1].endswith(":")
        answer = None if sentence.mentions else reply(words[number], after_colon=after_colon)
        if answer is None:
            continue
        certain = after_colon or answer == "none of these"
        certainty: Certainty = "present" if answer == "value" else "absent" if certain else "uncertain"
        for at in range(number - 1, -1, -1):
            earlier = found[at]
            if earlier.section != sentence.section or not earlier.mentions or not only_names(words[at]):
                break
            found[at] = replace(earlier, mentions=tuple(_as(mention, certainty) for mention in earlier.mentions))
            if answer != "none of these":
                break


def _retract(found: list[Sentence], words: list[str]) -> None:
    """Remove from *found* what a later sentence corrects: "Left effusion. Correction: right effusion."."""
    for number, sentence in enumerate(found):
        names = {mention.label.finding for mention in sentence.mentions} if is_correction(words[number]) else set()
        for name in names:
            stated = _labels_of(found[:number], name)
            wrong = retracted(stated, _labels_of([sentence], name))
            last = max((at for at in range(number) if wrong & set(_labels_of([found[at]], name))), default=number)
            if last < number:
                kept = (mention for mention in found[last].mentions if mention.label not in wrong)
                found[last] = replace(found[last], mentions=tuple(kept))


def _labels_of(told: list[Sentence], name: str) -> list[Label]:
    """Return the labels of one finding in sentences."""
    return [mention.label for sentence in told for mention in sentence.mentions if mention.label.finding == name]


def _as(mention: Mention, certainty: Certainty) -> Mention:
    return replace(mention, label=replace(mention.label, certainty=certainty))


def _mentions(reading: _Reading, earlier_side: str, of_list: OfList) -> Iterator[Mention]:
    """Yield the mentions in a part; of the context only uncertain ones."""
    part = reading.part
    for label, start, end in _labelled(reading.words, earlier_side, of_list):
        if part.section != "context" or label.certainty == "uncertain":
            first, last = reading.plain.span(start, end)
            yield Mention(label, part.start + first, part.start + last)


def _doubted(mention: Mention) -> Mention:
    """Return an affirmed mention as an uncertain one: a denial before the division of its sentence may reach it."""
    if mention.label.certainty != "present":
        return mention
    return _as(mention, "uncertain")


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


def _labelled(sentence: str, earlier_side: str, of_list: OfList) -> Iterator[tuple[Label, int, int]]:
    """Yield each label of a sentence in plain words, with the offsets of the finding's words."""
    found = [*lexicon.MENTION.finditer(sentence)]
    for number, mention in enumerate(found):
        before = found[number - 1].end() if number else 0
        following = found[number + 1] if number + 1 < len(found) else None
        after = following.start() if following else len(sentence)
        certainty = certainty_of(sentence, mention, after, of_list(mention.start()))
        if certainty is None:
            continue
        if certainty == "absent" and EXCEPT_ONE.match(sentence[:after], mention.end()):
            certainty = "present"
        finding = lexicon.FINDINGS[int(str(mention.lastgroup)[1:])][0]
        none = NONE_ON.search(sentence, mention.end(), after)
        one = ONE_ON.search(sentence, mention.end(), after) if certainty == "absent" else None
        apart = [match.span() for match in (none if none and none["first"] else None, one) if match]
        own = blanked(sentence, apart)
        context = Context(own, mention, before, after, following, earlier_side)
        places = context.all_places(finding)
        for side, zone in places:
            yield Label(finding, side, zone, context.nearest(lexicon.SIZE), certainty), *mention.span()
        for side, its_own in other_sides(sentence, mention, (before, after), certainty):
            if its_own == certainty and side in {told for told, _ in places}:
                continue
            yield Label(finding, side, certainty=its_own), *mention.span()
        if none:
            yield Label(finding, none["side"] or none["first"], certainty="absent"), *mention.span()
