"""Label the findings in a report's text, with certainty, side, zone and size.

Rules in the manner of NegEx (Chapman et al. 2001): a negation or an uncertainty reaches from its trigger to a
termination.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from worker.findings import lexicon
from worker.findings.sections import parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.findings.sections import Part, Section

Certainty = Literal["present", "uncertain", "absent"]

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
        certainty = _certainty(sentence, mention, after)
        context = _Context(sentence, mention, before, after, following)
        for side, zone in context.places(finding):
            label = Label(finding, side, zone, context.nearest(lexicon.SIZE), certainty)
            yield label, mention.start(), mention.end()


def _certainty(sentence: str, mention: re.Match[str], after: int) -> Certainty:
    start = max((found.end() for found in lexicon.TERMINATION.finditer(sentence, 0, mention.start())), default=0)
    # From the mention on: "no, but there is an effusion" must not end the negation at its own trigger.
    termination = lexicon.TERMINATION.search(sentence, mention.end())
    end = termination.start() if termination else len(sentence)
    clause, here = sentence[start:end], mention.start() - start

    def applies(before: re.Pattern[str], behind: re.Pattern[str]) -> bool:
        return _reaches(before, clause, here) or _follows(behind, sentence, mention.end(), after, end)

    if sentence.rstrip().endswith("?") or applies(lexicon.UNCERTAINTY, lexicon.POST_UNCERTAINTY):
        return "uncertain"
    listed = lexicon.LIST_NEGATION.match(sentence, mention.end()) or _NOT_ENLARGED.search(mention.group())
    return "absent" if listed or applies(lexicon.NEGATION, lexicon.POST_NEGATION) else "present"


def _follows(triggers: re.Pattern[str], sentence: str, start: int, after: int, end: int) -> bool:
    """Return whether a trigger after a mention applies to it: before the next mention, or to a list of mentions.

    After a new clause it applies to that clause only, as does a singular verb after "and".
    """
    trigger = triggers.search(sentence, start, end)
    if trigger is None:
        return False
    if trigger.start() < after:
        return _applies(sentence, start, trigger, after)
    mentions = lexicon.MENTION.finditer(sentence, after, trigger.start())
    between = sentence[start : max((mention.start() for mention in mentions), default=trigger.start())]
    to_the_last = _SINGULAR.match(trigger.group()) and re.search(r"\band\b", between)
    return not to_the_last and _is_list(between)


def _applies(sentence: str, start: int, trigger: re.Match[str], after: int) -> bool:
    """Return whether a trigger before the next mention has no other subject ("effusion, drain was removed").

    A participle right before the next mention belongs to that one: "effusion, healed rib fracture".
    """
    joins = [*_JOIN.finditer(sentence, start, trigger.start())]
    if joins and not lexicon.PLACE.fullmatch(sentence, joins[-1].end(), trigger.start()):
        return False
    bare = lexicon.PARTICIPLE.match(trigger.group().strip())
    rest = sentence[trigger.end() : after]
    return not (bare and after < len(sentence) and re.fullmatch(r"\s+(?:\w+\s+){0,3}", rest))


def _reaches(triggers: re.Pattern[str], clause: str, here: int) -> bool:
    """Return whether a trigger before offset *here* of a clause reaches the mention there.

    It reaches through a list ("no effusion, consolidation or nodule"), but no part with its own side or verb after a
    comma ("no effusion, left nodule").
    """
    found = [*triggers.finditer(clause, 0, here)]
    if not found:
        return False
    trigger = found[-1].end()
    part = max((new.start() for new in _NEW_PART.finditer(clause, trigger, here)), default=-1)
    if part < 0:
        return True
    own, rest = clause[part:here].lstrip(","), clause[part + 1 :].split(",", maxsplit=1)[0]
    if lexicon.CLAUSE.match(own) or lexicon.ASSERTED.search(own):
        return False
    if _AND.match(own) and "," not in clause[trigger:part]:
        return False
    joined = _LIST_END.search(clause, trigger)
    return bool(joined) or not any(own_words.search(rest) for own_words in (lexicon.SIDE, lexicon.ZONE, lexicon.SIZE))


def _is_list(text: str) -> bool:
    """Return whether *text* holds only names joined by commas, "and" or "or"."""
    return not re.search(r"\b(?:is|are|was|were|has|have|shows?|seen)\b", text) and not _NEW_PART.search(text, 1)


@dataclass(frozen=True, slots=True)
class _Context:
    """Words around a mention, from the mention before it to the one after."""

    sentence: str
    mention: re.Match[str]
    before: int
    after: int
    following: re.Match[str] | None

    def places(self, finding: str) -> list[tuple[str, str]]:
        """Return each side with its zone; empty if the finding has no side or none is stated."""
        if finding in lexicon.WITHOUT_SIDE:
            return [("", "")]
        if finding not in lexicon.ZONED:
            return [(side, "") for side in self.sides()]
        return self._two_places() or [(side, self.nearest(lexicon.ZONE)) for side in self.sides()]

    def _two_places(self) -> list[tuple[str, str]]:
        start = max(self.before, self.sentence.rfind(",", self.before, self.mention.start()) + 1)
        two = lexicon.TWO_PLACES.search(self.sentence, start, self.mention.start())
        if not two:
            two = lexicon.TWO_PLACES.search(self.sentence, self.mention.end(), self.after)
            if not two or _JOIN.search(self.sentence, self.mention.end(), two.start()):
                return []
        pairs = (two["side"], two["zone"]), (two["other_side"] or two["side"], two["other_zone"])
        return [(side, str(zone.lastgroup)) for side, word in pairs if (zone := lexicon.ZONE.match(word))]

    def sides(self) -> tuple[str, ...]:
        if lexicon.LEFT_AND_RIGHT.search(self.sentence[self.before : self.mention.start()]):
            return "left", "right"
        side = self.nearest(lexicon.SIDE) or self._leading() or self._same()
        return ("left", "right") if side == "both" else (side,)

    def _leading(self) -> str:
        """Return the side a clause begins with: "on the left, effusion and consolidation"."""
        lead = lexicon.LEADING_SIDE.match(self.sentence, self.sentence.rfind(";", 0, self.mention.start()) + 1)
        return lead["side"] if lead else ""

    def _same(self) -> str:
        if not lexicon.SAME_SIDE.search(self.sentence, self.before, self.after):
            return ""
        earlier = [*lexicon.SIDE.finditer(self.sentence, 0, self.mention.start())]
        return str(earlier[-1].lastgroup) if earlier else ""

    def nearest(self, words: re.Pattern[str]) -> str:
        """Return the word inside the mention, else the last before it in its phrase, else the first after it."""
        inside = words.search(self.mention.group())
        if inside:
            return str(inside.lastgroup)
        phrase = self._phrase_start()
        last = [*words.finditer(self.sentence, phrase, self.mention.start())]
        if last:
            return str(last[-1].lastgroup)
        following = words.search(self.sentence, self.mention.end(), self._phrase_end())
        if following:
            return str(following.lastgroup)
        return self._shared(words)

    def _phrase_start(self) -> int:
        """Return the offset after the last comma or conjunction: earlier words belong to another finding."""
        joined = [m.end() for m in _JOIN.finditer(self.sentence, self.before, self.mention.start())]
        return max([self.before, *joined])

    def _phrase_end(self) -> int:
        joined = _JOIN.search(self.sentence, self.mention.end(), self.after)
        return joined.start() if joined and self.after < len(self.sentence) else self.after

    def _shared(self, words: re.Pattern[str]) -> str:
        """Return a word shared by two mentions: "left pleural effusion and atelectasis"."""
        if words is lexicon.SIZE:
            return ""
        if self.following and self._joined(words, self.mention.end(), self.after):
            place = _PLACE_OF_BOTH.match(self.sentence, self.following.end())
            if place and (shared := words.search(place.group())):
                return str(shared.lastgroup)
        if not self.before or not self._joined(words, self.before, self.mention.start()):
            return ""
        earlier = [*words.finditer(self.sentence, 0, self.before)]
        return str(earlier[-1].lastgroup) if earlier else ""

    def _joined(self, words: re.Pattern[str], start: int, end: int) -> bool:
        between = _SHARING.fullmatch(self.sentence, start, end)
        return bool(between and (words is lexicon.SIDE or between["alternative"]))


#: Words between two findings with one side; alternatives share the zone, too.
_SHARING = re.compile(r"\s*(?:and|with|,|(?P<alternative>or|nor|versus|vs\.?|rather than))?\s*(?:\w+\s+)?")
#: Place after two findings: "consolidation rather than atelectasis in the left lower zone".
_PLACE_OF_BOTH = re.compile(r"\s+(?:in|on|at) (?:the )?(?:\w+\b ?){1,3}")
_NOT_ENLARGED = re.compile(r"\bnot\b.*\benlarged")
_SINGULAR = re.compile(r"(?:is|was|has)\b")
#: After the first comma: "no effusion, and cardiomegaly" is not a list, "no effusion, nodule, and mass" is one.
_AND = re.compile(r"\s*and\b")
_NEW_PART = re.compile(r",|\s+and (?:an?|the)\b")
#: Before the last item of a list that is negated as a whole.
_LIST_END = re.compile(r"\b(?:or|nor|and)\b")
_JOIN = re.compile(r",|\b(?:and|or|with|but|however|nor)\b|;")
