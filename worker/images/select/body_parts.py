"""Body parts of an object, as the few terms that windows, prompts and reference sets use.

Scanners write Body Part Examined as the terms of PS3.16 annex L, in their own words, glued together
(CHESTABDPELVIS) or in the language of the site; some write it in a description only.
"""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from worker.images.select.body_part_terms import CODES, FILLERS, PHRASES, PREFIXES, WHOLE_BODY, WORDS

if TYPE_CHECKING:
    from worker.images.decode.header import Header, Keyword

    #: Body parts in the order of ORDER; empty if unknown.
    Parts = tuple[str, ...]

#: Body parts from head to foot: the order of a report's sections.
ORDER = ("HEAD", "NECK", "CHEST", "BREAST", "ABDOMEN", "PELVIS", "SPINE", "EXTREMITY")
#: Adjectives of the spine ("thoracic spine"), which name another part if no spine is named.
_ADJECTIVES = re.compile(r"CERVIC|ZERVIK|THORAC|TORAC|THORAK|DORS")
#: Body parts that an examination of the other often shows.
_NEIGHBOURS = [
    {"HEAD", "NECK"},
    {"HEAD", "SPINE"},
    {"NECK", "CHEST"},
    {"NECK", "SPINE"},
    {"CHEST", "BREAST"},
    {"CHEST", "ABDOMEN"},
    {"CHEST", "SPINE"},
    {"ABDOMEN", "PELVIS"},
    {"ABDOMEN", "SPINE"},
    {"PELVIS", "SPINE"},
    {"PELVIS", "EXTREMITY"},
]
#: Modalities for which the German word for breast and chest means the breast.
_OF_BREASTS = frozenset({"MG", "MR", "US"})
#: Descriptions of more than one series, the more exact first.
_DESCRIPTIONS: tuple[Keyword, ...] = (
    "ProtocolName", "PerformedProcedureStepDescription", "RequestedProcedureDescription", "StudyDescription",
)  # fmt: skip
#: Words that name a position or a coil, not the examined part.
_NOT_EXAMINED = re.compile(r"\b(?:HEAD|FEET|FOOT)\W*FIRST\b|\b\w+\W*(?:COIL|SPULE)\b")
#: Letters of a term that counts within a word, after an ending: CERVICALSPINE.
_MIN_INNER = 5
_LETTERS = re.compile(r"[A-Z]+")


class Statements(NamedTuple):
    """Body parts of an object by its coded attributes, and by the description of its series, which is typed."""

    coded: Parts
    described: Parts

    @property
    def contradictory(self) -> bool:
        """True if both name parts, far from each other."""
        return bool(self.coded and self.described) and not _are_near(self.coded, self.described)


def statements_of(header: Header) -> Statements:
    """Return the body parts that the header of an object states about its series."""
    shared, modality = header.shared(), header.code("Modality")
    coded = _parts(_text(shared, "BodyPartExamined"), modality) or _of_regions(shared, modality)
    return Statements(coded, _parts(_text(header, "SeriesDescription"), modality))


def body_parts_of(header: Header) -> Parts:
    """Return the body parts of an object from its coded attributes, else from its descriptions.

    A code is often that of the examination, in each of its series. So the description of a series decides if it names
    the coded part and others, some parts of a whole body, or only neighbours of the coded part.
    """
    coded, described = statements_of(header)
    if coded:
        return described if _is_more_exact(described, coded) else coded
    modality = header.code("Modality")
    others = (_parts(header.text(word), modality) for word in _DESCRIPTIONS)
    return described or next(filter(None, others), ())


def _is_more_exact(described: Parts, coded: Parts) -> bool:
    if set(coded) < set(described):
        return True
    if set(WHOLE_BODY) <= set(coded):
        return bool(described)
    # The adjectives of the spine name neighbours of it: "thoracic".
    apart = set(coded).isdisjoint(described) and coded != ("SPINE",)
    return apart and _are_near(coded, described)


def _are_near(coded: Parts, described: Parts) -> bool:
    return any(one == other or {one, other} in _NEIGHBOURS for one in coded for other in described)


def _text(header: Header, keyword: Keyword) -> str:
    """Return all values of a text element: some write several body parts, although one is allowed."""
    return " ".join(header.texts(keyword))


def name_of(parts: Parts) -> str:
    """Return body parts as one name: `CHEST AND ABDOMEN`; empty if unknown."""
    if set(WHOLE_BODY) <= set(parts):
        return "WHOLE BODY"
    return " AND ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def _of_regions(header: Header, modality: str) -> Parts:
    """Return the body parts of Anatomic Region Sequence: by code, else by the words of its meaning."""
    found: set[str] = set()
    for item in header.items("AnatomicRegionSequence"):
        found.update(CODES.get(item.text("CodeValue")) or _parts(item.text("CodeMeaning"), modality))
    return _ordered(found)


@lru_cache(maxsize=1024)
def _parts(text: str, modality: str) -> Parts:
    words = _NOT_EXAMINED.sub(" ", _plain(text))
    together = "".join(_LETTERS.findall(words))
    if any(phrase in together for phrase in PHRASES):
        return WHOLE_BODY
    terms = [term for token in _LETTERS.findall(words) for term in _terms(token)]
    found = [(term, part) for term in terms for part in _meant(term, modality)]
    spine = any(part == "SPINE" for _, part in found)
    return _ordered({part for term, part in found if not (spine and _ADJECTIVES.match(term))})


def _plain(text: str) -> str:
    """Return *text* in upper case without accents; a header's text is decoded as Latin-1, and may be UTF-8."""
    with suppress(UnicodeError):
        text = text.encode("latin-1").decode("utf-8")
    decomposed = unicodedata.normalize("NFKD", text.upper())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter)).replace("_", " ")


def _terms(token: str) -> list[str]:
    """Return the known terms with which *token* begins, or that follow one of them.

    A short word counts only if nothing is left over: HAND and ARM begin other words.
    """
    found: list[str] = []
    exact: list[str] = []
    position, rest = 0, False
    while position < len(token):
        term = next((term for term in _LONGEST_FIRST if token.startswith(term, position)), "")
        if term in PREFIXES and not (rest and len(term) < _MIN_INNER):
            found.append(term)
        elif term and not rest:
            exact.append(term)
        elif found:
            rest, term = True, token[position]
        else:
            return []
        position += len(term)
    return found + ([] if rest else exact)


def _meant(term: str, modality: str) -> Parts:
    if term == "BRUST":
        return ("BREAST",) if modality in _OF_BREASTS else ("CHEST",)
    return PREFIXES.get(term) or WORDS.get(term, ())


def _ordered(found: set[str]) -> Parts:
    return tuple(part for part in ORDER if part in found)


_LONGEST_FIRST = sorted({*PREFIXES, *WORDS, *FILLERS}, key=lambda term: (-len(term), term))
