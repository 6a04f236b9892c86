"""Leave out words that the author took back: "left, correction, right effusion"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker.findings import lexicon

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.findings.labeller import Label

#: Takes back what was dictated before it. "Correction" alone is also an operation: "after correction of scoliosis".
_TAKEN_BACK = re.compile(
    r"(?:^|\s*[,.;:(\u2013\u2014-])\s*(?:(?:sorry|apologies|no|oh|i mean|wait),? )*"
    r"(?:correction(?=\s*[,:;\u2013-])|i mean(?:t)?\b|make that\b|(?:strike|scratch|delete|disregard) that\b|"
    r"(?:or )?rather(?= (?:(?:on|in) the )?(?:left|right)\b)|"
    r"(?:sorry|no,? wait|wait,? no)(?=\s*[,:]| (?:on the )?(?:left|right)\b))\s*[,.:;\u2013-]*\s*"
)
#: Words that take back all before them, and words that may only begin another statement: "sorry, no pneumothorax".
_STRUCK = re.compile(r"\b(?:strike|scratch|delete|disregard)\b")
_STRONG = re.compile(r"\b(?:correction|i mean|make that|rather)\b")
_DENIED = re.compile(r"\b(?:no|not|without|never)\b")
#: Between the correction and the finding that takes the place of the last one before it.
_SOON = re.compile(r"(?:[^\W\d]+\s+){0,4}")
#: Letters after a correction within which its side is told.
_NEAR = 20
#: Begins a finding's own words.
_BEGINS = re.compile(r"[,;:]|\b(?:and|or|but|with)\b")


def is_correction(words: str) -> bool:
    """Return whether a sentence in plain words begins by taking back an earlier one."""
    return re.match(r"\s*(?:addendum:? )?(?:correction|corrigendum|erratum)\b(?=\s*[,:])", words) is not None


def without_retracted(words: str) -> str:
    """Return *words* with blanks for what was taken back, so that offsets stay valid.

    A finding that is named again takes the place of the earlier mention, a side that of the last side.
    """
    for correction in _TAKEN_BACK.finditer(words):
        words = _corrected(words, *correction.span())
    return words


def _corrected(words: str, start: int, end: int) -> str:
    """Return *words* without what the correction from *start* to *end* takes back."""
    mentions = [*lexicon.MENTION.finditer(words, 0, start)]
    instead = lexicon.MENTION.search(words, end)
    if mentions and instead and _SOON.fullmatch(words, end, instead.start()):
        wrong = _taken_back(mentions, instead, words[start:end], words[end : instead.start()])
        if wrong is None:
            return words[:start] + ";".rjust(end - start) + words[end:]
        begin, after = _own_words(wrong)
        if wrong is not mentions[-1]:
            return words[:begin] + " " * (after - begin) + words[after:start] + ";".rjust(end - start) + words[end:]
        return words[:begin] + ";".rjust(end - begin) + words[end:]
    sides = [*lexicon.SIDE.finditer(words, 0, start)]
    if not sides or not lexicon.SIDE.search(words, end, end + _NEAR):
        return words
    first, last = sides[-1].span()
    if not any(mention.start() > last for mention in mentions):
        # With the zone beside it: "in the left upper lobe, correction, right lower lobe".
        last = start
    return words[:first] + " " * (last - first) + words[last:start] + " " * (end - start) + words[end:]


def _taken_back(
    mentions: list[re.Match[str]], instead: re.Match[str], correction: str, between: str
) -> re.Match[str] | None:
    """Return the mention of which *instead* takes the place, None if it is another statement."""
    struck, denied = _STRUCK.search(correction), _DENIED.search(between)
    same = [mention for mention in mentions if mention.lastgroup == instead.lastgroup]
    if not same:
        return mentions[-1] if struck or (_STRONG.search(correction) and not denied) else None
    side, sides = _side(instead), [_side(mention) for mention in same]
    if side and side in sides:
        return next(mention for mention in reversed(same) if _side(mention) == side)
    other = side and sides[-1] and denied and not struck
    return None if other or (len(set(sides)) > 1 and not struck) else same[-1]


def _own_words(mention: re.Match[str]) -> tuple[int, int]:
    """Return the offsets of the words about a mention: from the sign or conjunction before it to the next one."""
    signs = _BEGINS.finditer(mention.string, mention.pos, mention.start())
    begin = max((sign.end() for sign in signs), default=mention.pos)
    sign = _BEGINS.search(mention.string, mention.end(), mention.endpos)
    return begin, sign.start() if sign else mention.endpos


def _side(mention: re.Match[str]) -> str | None:
    """Return the side in the words about a mention, None if none is told."""
    side = lexicon.SIDE.search(mention.string, *_own_words(mention))
    return side.lastgroup if side else None


def retracted(stated: Sequence[Label], corrected: Sequence[Label]) -> set[Label]:
    """Return the labels of one finding in *stated* that those in *corrected* take back.

    Those of the same side, and the same zone if told; of another side only if one was stated, and the other not denied.
    """
    sides, now = {label.side for label in stated}, {label.side for label in corrected}
    if same := {label for label in stated if label.side and label.side in now}:
        zones = {label.zone for label in corrected}
        return {label for label in same if label.zone in zones} or same
    denied = all(label.certainty == "absent" for label in corrected)
    if "" in now and denied:
        return set(stated)
    return set() if len(sides) > 1 or (denied and "" not in sides) else set(stated)
