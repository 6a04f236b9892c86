"""Find the side, zone and size of a finding in the words around it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from worker.findings import lexicon
from worker.findings.certainty import JOIN

#: Words between two findings with one side; alternatives share the zone, too.
_SHARING = re.compile(r"\s*(?:and|with|,|(?P<alternative>or|nor|versus|vs\.?|rather than))?\s*(?:\w+\s+)?")
#: Place after two findings: "consolidation rather than atelectasis in the left lower zone".
_PLACE_OF_BOTH = re.compile(r"\s+(?:in|on|at) (?:the )?(?:\w+\b ?){1,3}")


@dataclass(frozen=True, slots=True)
class Context:
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
            if not two or JOIN.search(self.sentence, self.mention.end(), two.start()):
                return []
        pairs = (two["side"], two["zone"]), (two["other_side"] or two["side"], two["other_zone"])
        return [(side, str(zone.lastgroup)) for side, word in pairs if (zone := lexicon.ZONE.match(word))]

    def sides(self) -> tuple[str, ...]:
        """Return the sides of the finding, "" alone if none is stated."""
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
        joined = [m.end() for m in JOIN.finditer(self.sentence, self.before, self.mention.start())]
        return max([self.before, *joined])

    def _phrase_end(self) -> int:
        joined = JOIN.search(self.sentence, self.mention.end(), self.after)
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
