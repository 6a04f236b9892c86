"""Report text -> labels: which findings it affirms, doubts or denies, on which side, in which zone, how large."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from worker.findings import lexicon

if TYPE_CHECKING:
    from collections.abc import Iterator

Certainty = Literal["present", "uncertain", "absent"]

# Not after a question mark that stands before what is asked: "? nodule".
_SENTENCE = re.compile(r"(?<=[.!])\s+|(?<=\w\?)\s+|\n+")
_HEADING = re.compile(r"\b(?:findings?|impressions?|conclusions?)\s*:", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class Label:
    """A finding as a report tells it; side, zone and size are empty where it does not say."""

    finding: str
    side: str = ""
    zone: str = ""
    size: str = ""
    certainty: Certainty = "present"

    @property
    def strict(self) -> tuple[str, str, str]:
        """What two reports must agree on: finding, side, zone."""
        return self.finding, self.side, self.zone


def labels(text: str) -> list[Label]:
    """Every mention of a finding in *text*, in order; a finding on both sides counts once a side."""
    found: list[Label] = []
    for sentence in _SENTENCE.split(_HEADING.sub(". ", text)):
        found += _of_sentence(sentence.lower())
    return found


def present(text: str) -> set[Label]:
    """What *text* affirms, each once: where findings and impression tell the same, the fuller telling stays."""
    told = {label for label in labels(text) if label.certainty == "present"}
    return {label for label in told if not any(_says_more(other, label) for other in told)}


def kinds(text: str) -> set[str]:
    """The findings *text* affirms with their sides, as names: what a reference case is labelled with."""
    return {f"{label.finding} {label.side}" for label in present(text)}


def mentions_prior(text: str) -> bool:
    """Return whether *text* compares with an earlier examination; the model is given none, so it is invented."""
    return lexicon.PRIOR.search(text.lower()) is not None


def _says_more(other: Label, label: Label) -> bool:
    """Whether *other* tells the same finding with more about it."""
    if other == label or other.finding != label.finding:
        return False
    pairs = ((other.side, label.side), (other.zone, label.zone), (other.size, label.size))
    return all(mine in ("", theirs) for theirs, mine in pairs)


def _of_sentence(sentence: str) -> Iterator[Label]:
    # Blanked, not cut, so that every place stays where it was.
    sentence = lexicon.PSEUDO_DENIAL.sub(lambda match: " " * len(match.group()), sentence)
    mentions = list(lexicon.MENTION.finditer(sentence))
    for number, mention in enumerate(mentions):
        before = mentions[number - 1].end() if number else 0
        following = mentions[number + 1] if number + 1 < len(mentions) else None
        after = following.start() if following else len(sentence)
        finding = lexicon.FINDINGS[int(str(mention.lastgroup)[1:])][0]
        certainty = _certainty(sentence, mention, after)
        near = _Near(sentence, mention, before, after, following)
        for side, zone in near.places(finding):
            yield Label(finding, side, zone, near.size(), certainty)


def _certainty(sentence: str, mention: re.Match[str], after: int) -> Certainty:
    start = max((turn.end() for turn in lexicon.TURN.finditer(sentence, 0, mention.start())), default=0)
    # A turn right after the denial takes nothing away from it: "no, but there is ...".
    turn = lexicon.TURN.search(sentence, mention.end())
    end = turn.start() if turn else len(sentence)
    clause, here = sentence[start:end], mention.start() - start
    if sentence.rstrip().endswith("?"):
        return "uncertain"
    if _reaches(lexicon.DOUBT, clause, here) or _said_after(lexicon.DOUBTED, sentence, mention.end(), after, end):
        return "uncertain"
    if lexicon.VERDICT.match(sentence, mention.end()) or _NOT_ENLARGED.search(mention.group()):
        return "absent"
    if _reaches(lexicon.DENIAL, clause, here) or _said_after(lexicon.DENIED, sentence, mention.end(), after, end):
        return "absent"
    return "present"


def _said_after(verdict: re.Pattern[str], sentence: str, start: int, after: int, end: int) -> bool:
    """Whether what is said after a mention is said of it: before the next one, or of a whole list of mentions.

    After a new clause it is said of that one only, and so is "is" after an "and".
    """
    said = verdict.search(sentence, start, end)
    if said is None:
        return False
    if said.start() < after:
        return _of_it(sentence, start, said, after)
    mentions = lexicon.MENTION.finditer(sentence, after, said.start())
    between = sentence[start : max((mention.start() for mention in mentions), default=said.start())]
    of_one = _ONE.match(said.group()) and re.search(r"\band\b", between)
    return not of_one and _is_list(between)


def _of_it(sentence: str, start: int, said: re.Match[str], after: int) -> bool:
    """Whether a verdict before the next mention is not another subject's ("effusion, drain was removed") or its own.

    A participle right before the next mention belongs to that one: "effusion, healed rib fracture".
    """
    joins = [*_JOIN.finditer(sentence, start, said.start())]
    if joins and not lexicon.PLACE.fullmatch(sentence, joins[-1].end(), said.start()):
        return False
    bare = lexicon.PARTICIPLE.match(said.group().strip())
    return not (bare and after < len(sentence) and re.fullmatch(r"\s+(?:\w+\s+){0,3}", sentence[said.end() : after]))


def _reaches(words: re.Pattern[str], clause: str, here: int) -> bool:
    """Whether one of *words* before the place *here* of a clause reaches what is mentioned there.

    It reaches through a list ("no effusion, consolidation or nodule"), and not into what has a side or a verb of its
    own after a comma ("no effusion, left nodule").
    """
    said = [*words.finditer(clause, 0, here)]
    if not said:
        return False
    part = max((new.start() for new in _NEW_PART.finditer(clause, said[-1].end(), here)), default=-1)
    if part < 0:
        return True
    own, rest = clause[part:here].lstrip(","), clause[part + 1 :].split(",", maxsplit=1)[0]
    if lexicon.CLAUSE.match(own) or lexicon.ASSERTED.search(own):
        return False
    if _AND.match(own) and "," not in clause[said[-1].end() : part]:
        return False
    joined = _LIST_END.search(clause, said[-1].end())
    return bool(joined) or not any(own_words.search(rest) for own_words in (lexicon.SIDE, lexicon.ZONE, lexicon.SIZE))


def _is_list(text: str) -> bool:
    """Whether only names joined by commas, and, or stand between."""
    return not re.search(r"\b(?:is|are|was|were|has|have|shows?|seen)\b", text) and not _NEW_PART.search(text, 1)


@dataclass(frozen=True, slots=True)
class _Near:
    """Words near a mention: between the mention before it and the one after."""

    sentence: str
    mention: re.Match[str]
    before: int
    after: int
    following: re.Match[str] | None

    def places(self, finding: str) -> list[tuple[str, str]]:
        """Each side with its zone; either is empty where the finding has none or it is not said."""
        if finding in lexicon.WITHOUT_SIDE:
            return [("", "")]
        if finding not in lexicon.ZONED:
            return [(side, "") for side in self.sides()]
        two = self._two_places()
        return two or [(side, self.zone()) for side in self.sides()]

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
        said = self._nearest(lexicon.SIDE) or self._leading() or self._same()
        return ("left", "right") if said == "both" else (said,)

    def _leading(self) -> str:
        """The side a clause begins with: "on the left, effusion and consolidation"."""
        lead = lexicon.LEADING_SIDE.match(self.sentence, self.sentence.rfind(";", 0, self.mention.start()) + 1)
        return lead["side"] if lead else ""

    def _same(self) -> str:
        if not lexicon.SAME_SIDE.search(self.sentence, self.before, self.after):
            return ""
        earlier = [*lexicon.SIDE.finditer(self.sentence, 0, self.mention.start())]
        return str(earlier[-1].lastgroup) if earlier else ""

    def zone(self) -> str:
        return self._nearest(lexicon.ZONE)

    def size(self) -> str:
        return self._nearest(lexicon.SIZE)

    def _nearest(self, words: re.Pattern[str]) -> str:
        """The word inside the mention, the last before it in its phrase, or the first after it."""
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
        """After the last comma or joining word before the mention: what stands before belongs to another finding."""
        joined = [m.end() for m in _JOIN.finditer(self.sentence, self.before, self.mention.start())]
        return max([self.before, *joined])

    def _phrase_end(self) -> int:
        joined = _JOIN.search(self.sentence, self.mention.end(), self.after)
        return joined.start() if joined and self.after < len(self.sentence) else self.after

    def _shared(self, words: re.Pattern[str]) -> str:
        """A word that joins: "left pleural effusion and atelectasis", with nothing of its own in the second part."""
        if words is lexicon.SIZE:
            return ""
        if self.following and self._joined(words, self.mention.end(), self.after):
            place = _PLACE_OF_BOTH.match(self.sentence, self.following.end())
            if place and (told := words.search(place.group())):
                return str(told.lastgroup)
        if not self.before or not self._joined(words, self.before, self.mention.start()):
            return ""
        earlier = [*words.finditer(self.sentence, 0, self.before)]
        return str(earlier[-1].lastgroup) if earlier else ""

    def _joined(self, words: re.Pattern[str], start: int, end: int) -> bool:
        between = _SHARING.fullmatch(self.sentence, start, end)
        return bool(between and (words is lexicon.SIDE or between["instead"]))


#: What may stand between two findings of one place; where one stands instead of the other, they share the zone, too.
_SHARING = re.compile(r"\s*(?:and|with|,|(?P<instead>or|nor|versus|vs\.?|rather than))?\s*(?:\w+\s+)?")
#: After two findings of one place: "consolidation rather than atelectasis in the left lower zone".
_PLACE_OF_BOTH = re.compile(r"\s+(?:in|on|at) (?:the )?(?:\w+\b ?){1,3}")
_NOT_ENLARGED = re.compile(r"\bnot\b.*\benlarged")
_ONE = re.compile(r"(?:is|was|has)\b")
#: After a comma that is the first: "no effusion, and cardiomegaly" is no list, "no effusion, nodule, and mass" is one.
_AND = re.compile(r"\s*and\b")
_NEW_PART = re.compile(r",|\s+and (?:an?|the)\b")
#: The last of a list that is denied as a whole.
_LIST_END = re.compile(r"\b(?:or|nor|and)\b")
_JOIN = re.compile(r",|\b(?:and|or|with|but|however|nor)\b|;")
