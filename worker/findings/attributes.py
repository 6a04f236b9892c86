"""Find the side, zone and size of a finding in the words around it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from worker.findings import lexicon
from worker.findings.certainty import JOIN

#: Words between a sign and its cause: "opacity, likely atelectasis".
_LINK = (
    r"(?:(?:most |very |more )?(?:likely|probably|possibly) )?(?:(?:may|might|could) )?(?:reflect(?:s|ing)?|"
    r"represent(?:s|ing)?|suggest(?:s|ing|ive of)|(?:is |are )?(?:consistent|compatible|in keeping) with|"
    r"(?:concerning|suspicious|worrisome) for)|(?:(?:most|very|more) )?(?:likely|probably|possibly)"
)
#: Words between two findings with one side; alternatives, and a sign and its cause, share the zone, too.
_SHARING = re.compile(
    rf"\s*(?:,?\s*(?P<alternative>or|nor|versus|vs\.?|rather than|(?:is )?favou?red over|{_LINK})|and|with|,)?\s*"
    r"(?:(?!(?:though|although|but|no|without)\b)\w+\s+)?"
)
#: Place after two findings: "consolidation rather than atelectasis in the left lower zone".
_PLACE_OF_BOTH = re.compile(r"\s+(?:in|on|at) (?:the )?(?:\w+\b ?){1,3}")
_OTHER = {"left": "right", "right": "left"}


def with_both_sides(sentence: str) -> str:
    """Return *sentence* with "bilateral" for a comparison of two sides, and without the sides of heart chambers."""
    sentence = lexicon.COMPARED_SIDES.sub(lambda match: "bilateral".ljust(len(match.group())), sentence)
    return lexicon.NO_SIDE.sub(lambda match: " " * len(match.group()), sentence)


def last_side(sentence: str, default: str = "") -> str:
    """Return the last side in *sentence*: the one that "the same side" in the next sentence refers to."""
    sides = [*lexicon.SIDE.finditer(sentence)]
    return str(sides[-1].lastgroup) if sides else default


@dataclass(frozen=True, slots=True)
class Context:
    """Words around a mention, from the mention before it to the one after; the last side of the earlier sentences."""

    sentence: str
    mention: re.Match[str]
    before: int
    after: int
    following: re.Match[str] | None
    earlier_side: str = ""

    def places(self, finding: str) -> list[tuple[str, str]]:
        """Return each side with its zone; empty if the finding has no side or none is stated."""
        if finding in lexicon.WITHOUT_SIDE:
            return [("", "")]
        several = self._several_places()
        if finding not in lexicon.ZONED:
            # Each side once, in the order of the text.
            return [(side, "") for side in dict.fromkeys(side for side, _ in several) or self.sides()]
        return several or [(side, self.nearest(lexicon.ZONE)) for side in self.sides()]

    def _several_places(self) -> list[tuple[str, str]]:
        """Return the places of a list of them: "right upper and left lower zones"; empty without a list."""
        found = lexicon.PLACES.search(self.sentence, self.before, self.mention.start())
        if not found:
            found = lexicon.PLACES.search(self.sentence, self.mention.end(), self.after)
            if not found or JOIN.search(self.sentence, self.mention.end(), found.start()):
                return []
        side, places = "", []
        for place in lexicon.ONE_PLACE.finditer(found.group()):
            side, zone = place["side"] or side, lexicon.ZONE.match(place["zone"])
            sides = (side,) if side in _OTHER else ("left", "right")
            places += [(each, str(zone.lastgroup)) for each in sides if zone]
        return places

    def sides(self) -> tuple[str, ...]:
        """Return the sides of the finding, "" alone if none is stated."""
        if lexicon.LEFT_AND_RIGHT.search(self.sentence[self.before : self.mention.start()]) or self._both_after():
            return "left", "right"
        side = self.nearest(lexicon.SIDE) or self._leading() or self._referred()
        return ("left", "right") if side == "both" else (side,)

    def _both_after(self) -> bool:
        """Return whether both sides follow: "effusions on the left and right", not "on the left and right nodule"."""
        both = lexicon.BOTH_AFTER.match(self.sentence, self.mention.end(), self.after)
        return bool(both and (not self.following or re.match(r"\s*[.,;]", self.sentence[both.end() :])))

    def _leading(self) -> str:
        """Return the side a clause begins with: "on the left, effusion and consolidation"."""
        lead = lexicon.LEADING_SIDE.match(self.sentence, self.sentence.rfind(";", 0, self.mention.start()) + 1)
        return (lead["side"] or lead["organ_side"]) if lead else ""

    def _referred(self) -> str:
        """Return the side that "the same side" or "contralateral" refers to."""
        reference = lexicon.SIDE_REFERENCE.search(self.sentence, self.before, self.after)
        if not reference:
            return ""
        side = last_side(self.sentence[: self.mention.start()], self.earlier_side)
        return side if reference["same"] else _OTHER.get(side, "")

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
