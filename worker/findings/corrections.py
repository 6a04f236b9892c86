"""Leave out words that the author took back: "left, correction, right effusion"."""

from __future__ import annotations

import re

from worker.findings import lexicon

#: Takes back what was dictated before it. "Correction" alone is also an operation: "after correction of scoliosis".
_TAKEN_BACK = re.compile(
    r"(?:^|\s*[,.;:(\u2013\u2014-])\s*(?:(?:sorry|apologies|no|oh|i mean|wait),? )*"
    r"(?:correction(?=\s*[,:;\u2013-])|i mean(?:t)?\b|make that\b|(?:strike|scratch|delete|disregard) that\b|"
    r"(?:or )?rather(?= (?:(?:on|in) the )?(?:left|right)\b)|"
    r"(?:sorry|no,? wait|wait,? no)(?=\s*[,:]| (?:on the )?(?:left|right)\b))\s*[,.:;\u2013-]*\s*"
)
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
        same = [mention for mention in mentions if mention.lastgroup == instead.lastgroup]
        at = (same or mentions)[-1].start()
        begin = max((sign.end() for sign in _BEGINS.finditer(words, 0, at)), default=0)
        return words[:begin] + ";".rjust(end - begin) + words[end:]
    sides = [*lexicon.SIDE.finditer(words, 0, start)]
    if not sides or not lexicon.SIDE.search(words, end, end + _NEAR):
        return words
    first, last = sides[-1].span()
    if not any(mention.start() > last for mention in mentions):
        # With the zone beside it: "in the left upper lobe, correction, right lower lobe".
        last = start
    return words[:first] + " " * (last - first) + words[last:start] + " " * (end - start) + words[end:]
