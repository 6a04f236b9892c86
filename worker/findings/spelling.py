"""Write out the abbreviations of a sentence and correct its spelling, with the offsets of the original text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from string import ascii_lowercase

from worker.findings.abbreviations import ABBREVIATIONS, CORRECTED, MISSPELLED, REAL_WORDS, UPPER_CASE

#: Shortest word that is corrected by rule.
MIN_CORRECTED = 6


def _alternatives(words: dict[str, str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


#: White space, "PE", abbreviations and long words. "L" and "R" are no sides in "2 L", "L-spine" and "L 5".
_WORD = re.compile(
    r"(?P<blank>\s+)|"
    r"(?P<effusion>(?<![\w/])PEs?(?!\w))|"
    rf"(?P<short>(?<![\w/-])(?ai:{_alternatives(ABBREVIATIONS)})(?:(?!\w)|(?<=/)))|"
    r"(?P<second>(?<=[A-Za-z]/)(?ai:effs?|ptx|pna|chf|atel|consol|fx|sah|ich)(?!\w))|"
    r"(?P<eye>(?<!\w)[RL]E(?=\s*:))|"
    rf"(?P<upper>(?<![\w/])(?:{_alternatives(UPPER_CASE)})(?!\w|[- ]spine|[- ]\d))|"
    r"(?P<long>(?<!\w)[A-Za-z]{4,}(?!\w))"
)
#: Beside "RE:" and "LE:", which may also mean "regarding".
_OF_EYES = re.compile(r"drusen|exudat|macula|retina|fund(?:us|i)\b|\bdis[ck]|cupping|ha?emorrhages", re.IGNORECASE)
_LITRES = re.compile(r"\d\s*$")
#: "PE" is an effusion beside one of these, and otherwise an embolism or unknown: no finding of the lexicon.
_EFFUSION_BEFORE = re.compile(
    r"\b(?:left|right|small|large|moderate|trace|tiny|bilateral|bilat|[LRB]|b/l|sm|mod|lg|"
    r"(?:ptx|pneumothorax),?(?: (?:or|and|nor))?)"
    r"(?:-sided)?\s+$",
    re.IGNORECASE,
)
_EFFUSION_AFTER = re.compile(
    r"\s+(?:on the (?:left|right)|bilaterally|[LR]\b|(?:or|and|nor) (?:ptx|pneumothorax))|"
    r",\s*(?:no )?(?:ptx|pneumothorax)",
    re.IGNORECASE,
)
_EMBOLISM = re.compile(r"segment|arter|embol|ctpa|filling|thromb|dvt|saddle|right heart strain", re.IGNORECASE)


@dataclass(slots=True)
class Plain:
    """A sentence in lower case and full words; ``starts`` and ``ends`` hold the original offsets of each letter."""

    text: str = ""
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the original offsets of ``text[start:end]``, which is not empty."""
        return self.starts[start], self.ends[end - 1]

    def keep(self, text: str, start: int, end: int) -> None:
        """Add the letters of ``text[start:end]``; each stays one letter in lower case."""
        words = text[start:end]
        low = words.lower()
        if len(low) != len(words):
            low = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in words)
        self.text += low
        self.starts += range(start, end)
        self.ends += range(start + 1, end + 1)

    def replace(self, words: str, start: int, end: int) -> None:
        """Add *words* for the original letters from *start* to *end*."""
        self.text += words
        self.starts += [start] * len(words)
        self.ends += [end] * len(words)


def plain(text: str) -> Plain:
    """Return *text* with full words, single blanks and corrected spelling, in lower case."""
    written, at = Plain(), 0
    for word in _WORD.finditer(text):
        words = _instead(text, word)
        if words is None:
            continue
        written.keep(text, at, word.start())
        written.replace(words, *word.span())
        at = word.end()
    written.keep(text, at, len(text))
    return written


def misspelled(text: str) -> list[str]:
    """Return the words of *text* that are read as another word, in lower case and sorted."""
    words = (word.group().lower() for word in re.finditer(r"(?<!\w)[A-Za-z]{4,}(?!\w)", text))
    return sorted(word for word in words if _corrected(word))


def _instead(text: str, word: re.Match[str]) -> str | None:
    """Return the words to read instead of a word; None if it stays."""
    found = word.group()
    if word["blank"]:
        return " " if found != " " else None
    if word["effusion"]:
        return _of_pe(text, word)
    if word["upper"]:
        return None if found in "LR" and _LITRES.search(text, 0, word.start()) else UPPER_CASE[found]
    if word["eye"]:
        return _of_eye(text, found)
    if word["short"] or word["second"]:
        return ABBREVIATIONS[found.lower()] + (" " if found.endswith("/") else "")
    return _corrected(found.lower())


def _of_eye(text: str, found: str) -> str | None:
    return UPPER_CASE[found[0]] + " eye" if _OF_EYES.search(text) else None


def _of_pe(text: str, word: re.Match[str]) -> str | None:
    if _EMBOLISM.search(text):
        return None
    beside = _EFFUSION_BEFORE.search(text[: word.start()]) or _EFFUSION_AFTER.match(text, word.end())
    return ("pleural effusions" if word.group().endswith("s") else "pleural effusion") if beside else None


@lru_cache(maxsize=16_384)
def _corrected(word: str) -> str | None:
    """Return the word of CORRECTED that is one letter away; None if there is none or the word is right."""
    if word in MISSPELLED:
        return MISSPELLED[word]
    if len(word) < MIN_CORRECTED or word in CORRECTED or word in REAL_WORDS:
        return None
    return next((near for near in _one_edit(word) if near in CORRECTED and near[0] == word[0]), None)


def _one_edit(word: str) -> list[str]:
    splits = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    missing = [a + letter + b for a, b in splits for letter in ascii_lowercase]
    wrong = [a + letter + b[1:] for a, b in splits if b for letter in ascii_lowercase]
    additional = [a + b[1:] for a, b in splits if b]
    exchanged = [a + b[1] + b[0] + b[2:] for a, b in splits if len(b) > 1]
    return exchanged + additional + wrong + missing
