"""Find the side, zone and size of a finding in the words around it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from worker.findings import lexicon
from worker.findings.certainty import BESIDE, JOIN, blanked

#: Words between a sign and its cause: "opacity, likely atelectasis".
_LINK = (
    r"(?:(?:most |very |more )?(?:likely|probably|possibly) )?(?:(?:may|might|could|would) )?(?:reflect(?:s|ing)?|"
    r"indicat(?:es|ing)|represent(?:s|ing)?|suggest(?:s|ing|ive of)|"
    r"(?:is |are )?(?:consistent|compatible|in keeping) with|(?:concerning|suspicious|worrisome) for)|"
    r"differential(?: diagnosis)?:?|"
    r"(?:(?:most|very|more) )?(?:likely|probably|possibly)"
)
#: Words between two findings with one side; alternatives, and a sign and its cause, share the zone, too.
_WORD = r"(?:(?!(?:though|although|but|no|without)\b)\w+\s+)"
_SHARING = re.compile(
    rf"\s*(?:,?\s*(?P<alternative>/|-(?=\w)|or|nor|versus|vs\.?|rather than|(?:is )?favou?red over|{_LINK})"
    rf"\s*{_WORD}{{0,2}}|"
    rf"(?:and|with|,)?\s*{_WORD}?)"
)
#: Place after two findings: "consolidation rather than atelectasis in the left lower zone".
_PLACE_OF_BOTH = re.compile(
    r"\s+(?:(?:in|on|at|over|along|within|throughout) (?:the )?(?:\w+\b ?){1,3}|"
    r"of (?:the )?(?:left|right) (?:(?:lower|upper) )?"
    r"(?:leg|arm|forearm|thigh|shin|foot|heel|ankle|hand|cheek|breast|eye)\b)"
)
#: Before a finding that explains what was told: "focus in the right thalamus, consistent with haemorrhage".
_CAUSE = re.compile(
    rf",\s*(?:(?:which|that) )?(?:{_LINK})\s+(?:(?:\w+,?\s+){{1,4}}or\s+)?(?:\w+\s+){{0,2}}$|(?:,|\s[\u2013-])\s*\?\s*$"
)
_BRACKET = re.compile(r"\s*\([^)]*\)")
_OTHER = {"left": "right", "right": "left"}


def with_both_sides(sentence: str) -> str:
    """Return *sentence* with "bilateral" for a comparison of two sides; without denied sides and those of chambers."""
    sentence = lexicon.COMPARED_SIDES.sub(lambda match: "bilateral".ljust(len(match.group())), sentence)
    for no_side in (lexicon.NO_SIDE, lexicon.DENIED_SIDE, lexicon.SPARED):
        sentence = no_side.sub(lambda match: " " * len(match.group()), sentence)
    return sentence


def last_side(sentence: str, default: str = "") -> str:
    """Return the last side in *sentence*: the one that "the same side" in the next sentence refers to."""
    return last_of(lexicon.SIDE, sentence) or default


def last_of(words: re.Pattern[str], text: str) -> str:
    """Return the group of the last match in *text*; empty without one."""
    found = [*words.finditer(text)]
    return str(found[-1].lastgroup) if found else ""


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

    def all_places(self, finding: str) -> list[tuple[str, str]]:
        """Return the places of a finding or of several of them: of each one, or of all and of the largest."""
        each = [*lexicon.ONE_EACH.finditer(self.sentence, self.mention.end(), self.after)]
        if len(each) > 1 and finding not in lexicon.WITHOUT_SIDE:
            zoned = finding in lexicon.ZONED
            return [(one["side"], last_of(lexicon.ZONE, one.group()) if zoned else "") for one in each]
        return self._with_largest(finding)

    def _with_largest(self, finding: str) -> list[tuple[str, str]]:
        largest = lexicon.LARGEST.search(self.sentence, self.mention.end(), self.after)
        if not largest:
            return self.places(finding)
        start, end = largest.start(), min(largest.end(), self.after)
        rest = replace(self, sentence=blanked(self.sentence, [(start, end)])).places(finding)
        if not rest[0][0]:
            return self.places(finding)
        alone = blanked(self.sentence, [(self.before, self.mention.start()), (self.mention.end(), start)])
        its_own = replace(self, sentence=alone, earlier_side="").places(finding)
        return list(dict.fromkeys(rest + [place for place in its_own if place[0]]))

    def _several_places(self) -> list[tuple[str, str]]:
        """Return the places of a list of them: "right upper and left lower zones"; empty without a list."""
        found = lexicon.PLACES.search(self.sentence, self.before, self.mention.start())
        if not found:
            found = lexicon.PLACES.search(self.sentence, self.mention.end(), self.after)
            if not found or JOIN.search(self.sentence, self.mention.end(), found.start()):
                return []
        side, places = "", []
        for place in lexicon.ONE_PLACE.finditer(found.group()):
            side = place["side"] or place["whole"] or side
            sides = (side,) if side in _OTHER else ("left", "right")
            places += [(each, last_of(lexicon.ZONE, place.group())) for each in sides]
        return places

    def sides(self) -> tuple[str, ...]:
        """Return the sides of the finding, "" alone if none is stated."""
        if lexicon.LEFT_AND_RIGHT.search(self.sentence[self.before : self.mention.start()]) or self._both_after():
            return "left", "right"
        side = self.nearest(lexicon.SIDE) or self._leading() or self._referred()
        than = lexicon.THAN_AFTER.match(self.sentence, self.mention.end(), self.after)
        if than and _OTHER.get(side) == than["side"]:
            return "left", "right"
        return ("left", "right") if side == "both" else (side,)

    def _both_after(self) -> bool:
        """Return whether both sides follow: "effusions on the left and right", not "on the left and right nodule"."""
        both = lexicon.BOTH_AFTER.match(self.sentence, self.mention.end(), self.after)
        return bool(both and (not self.following or re.match(r"\s*[.,;]", self.sentence[both.end() :])))

    def _leading(self) -> str:
        """Return the side a clause begins with: "on the left, effusion and consolidation"."""
        told = self.sentence[: self.mention.start()]
        lead = lexicon.LEADING_SIDE.match(told, told.rfind(";") + 1)
        organ = lexicon.ORGAN_WITH.search(self.sentence[: self.mention.start()])
        return (lead["side"] or lead["organ_side"] or lead["subject"]) if lead else organ["side"] if organ else ""

    def _referred(self) -> str:
        """Return the side that "the same side" or "contralateral" refers to."""
        reference = lexicon.SIDE_REFERENCE.search(self.sentence, self.before, self.after)
        if not reference:
            return ""
        side = last_side(self.sentence[: self.mention.start()], self.earlier_side)
        return side if reference["same"] else _OTHER.get(side, "")

    def nearest(self, words: re.Pattern[str]) -> str:
        """Return the word inside the mention, else the last before it in its phrase, else the first after it.

        In "nodule in the left upper zone beside a mass", words before "beside" count last, and its size not at all.
        """
        bracket = _BRACKET.match(self.sentence, self.mention.end())
        inside = words.search(self.mention.group()) or (bracket and words.search(bracket.group()))
        if words is lexicon.SIDE and not inside:
            inside = lexicon.APPOSED.match(self.sentence, self.mention.end())
        if inside:
            return str(inside.lastgroup)
        phrase = self._phrase_start()
        own = max((m.end() for m in BESIDE.finditer(self.sentence, phrase, self.mention.start())), default=phrase)
        if last := last_of(words, self.sentence[own : self.mention.start()]):
            return last
        following = words.search(self.sentence, self.mention.end(), self._phrase_end())
        if following:
            return str(following.lastgroup)
        beside = "" if words is lexicon.SIZE else last_of(words, self.sentence[phrase:own])
        return beside or self._shared(words)

    def _phrase_start(self) -> int:
        """Return the offset after the last comma or conjunction: earlier words belong to another finding."""
        joined = [m.end() for m in JOIN.finditer(self.sentence, self.before, self.mention.start())]
        return max([self.before, *joined])

    def _phrase_end(self) -> int:
        # A semicolon ends what is told of a finding even if no other finding follows: "OD: exudates; OS: normal".
        semicolon = self.sentence.find(";", self.mention.end(), self.after)
        end = self.after if semicolon < 0 else semicolon
        # A comma or conjunction divides it only from the words of another finding: "drusen, left eye; right clear".
        joined = JOIN.search(self.sentence, self.mention.end(), end) if self.following else None
        return joined.start() if joined else end

    def _shared(self, words: re.Pattern[str]) -> str:
        """Return a word shared by two mentions: "left pleural effusion and atelectasis"."""
        if words is lexicon.SIZE:
            return ""
        if self.following and self._joined(words, self.mention.end(), self.after):
            place = _PLACE_OF_BOTH.match(self.sentence, self.following.end())
            if place and (shared := words.search(place.group())):
                return str(shared.lastgroup)
            if described := self._of_following(words):
                return described
        cause = _CAUSE.search(self.sentence[: self.mention.start()])
        if cause and (told := last_of(words, self.sentence[self.before : cause.start()])):
            return told
        if not self.before or not self._joined(words, self.before, self.mention.start()):
            return ""
        return last_of(words, self.sentence[: self.before])

    def _of_following(self, words: re.Pattern[str]) -> str:
        """Return the side of the finding that the mention describes: "ulcerated nodule with a crust on the left"."""
        described = self.following
        adjective = re.search(r"(?:ed|ous|tic)$", self.mention.group())
        if not described or not adjective or self.sentence[self.mention.end() : described.start()].strip():
            return ""
        another = lexicon.MENTION.search(self.sentence, described.end())
        end = another.start() if another else len(self.sentence)
        told = re.compile(r"[^,;.]*").match(self.sentence, described.end(), end)
        found = words.search(told.group()) if told else None
        return str(found.lastgroup) if found else ""

    def _joined(self, words: re.Pattern[str], start: int, end: int) -> bool:
        between = _SHARING.fullmatch(self.sentence, start, end)
        return bool(between and (words is lexicon.SIDE or between["alternative"]))
