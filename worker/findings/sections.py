"""Split the text of a report into sections and sentences, with character offsets."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

#: "context" is what was known before the examination (history, indication, comparison, technique).
Section = Literal["findings", "impression", "context"]

#: Section -> its headings.
_HEADINGS: dict[Section, str] = {
    "findings": r"findings?|observations?|description|microscopy|report",
    "impression": r"impressions?|conclusions?|opinion|interpretation|(?:final )?diagnos[ie]s|summary|beurteilung",
    "context": (
        r"(?:clinical |past |medical |patient |relevant )*(?:history|hx|information|details|background|question)|"
        r"(?:clinical )?indications?(?: for (?:the )?\w+)?|reasons? for (?:the )?(?:exam(?:ination)?|study|request)|"
        r"comparisons?(?: (?:study|studies|exams?|films?))?|(?<![a-z] )priors?(?: (?:studies|exams?))?|"
        r"technique|technical details"
    ),
}
_NAMED = "|".join(f"(?P<{section}>{names})" for section, names in _HEADINGS.items())
#: A heading with a colon anywhere, or alone on its line.
_HEADING = re.compile(
    rf"\b(?:{_NAMED})\s*:|^[ \t]*(?:{_NAMED.replace('?P<', '?P<line_')})[ \t]*$", re.IGNORECASE | re.MULTILINE
)
#: Number or bullet of a list item, which is part of no sentence.
_ITEM = re.compile(r"(?:\d{1,2}[.)]|[-*\u2022\u2013])\s+")
#: Not after a question mark that precedes its finding: "? nodule". A wrapped line goes on in lower case, unless it and
#: the line before are rows of a table: "effusion: none", "nodule: 4 mm".
_END = re.compile(
    r"(?<=[.!])\s+|(?<=\w\?)\s+(?!(?:[Nn](?:one|il|ot|o\s*\.)|[Aa]bsent)\b)|"
    r"\s*\n\s*(?![a-z(\s])|(?P<row>\s*\n\s*(?=[a-z][a-z /-]{2,40}[:=|]))|\n[ \t]*\n\s*|\s+(?=\d{1,2}\)\s+[A-Z])"
)
_VALUE = re.compile(r"[:=|]")
#: Characters of a sentence. A longer one is divided, at a comma if there is one: the rules compare each mention with
#: all others, and a text without full stops must not occupy a worker for hours.
MAX_SENTENCE = 500
_DIVISION = re.compile(r"[,;]\s|\s")
#: Words whose full stop ends no sentence.
_ABBREVIATED = re.compile(
    r"(?:\b(?:vs|approx|ca|rt|lt|bilat|e\.g|i\.e|dr|prof|resp|incl)|^\s*\d{1,2})\.$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Part:
    """Offsets of one sentence, without blanks, list markers or its heading; never empty.

    `continues` is True for a part of a divided sentence but its first.
    """

    section: Section
    start: int
    end: int
    continues: bool = False


def parts(text: str, section: Section) -> Iterator[Part]:
    """Yield the sentences of *text*, which begins in *section*; a heading in it begins another."""
    headings = [*_HEADING.finditer(text)]
    starts = [0, *(heading.end() for heading in headings)]
    ends = [*(heading.start() for heading in headings), len(text)]
    sections = [section, *map(_section, headings)]
    last_reported = max((n for n, name in enumerate(sections) if name != "context"), default=-1)
    for number, (name, start, end) in enumerate(zip(sections, starts, ends, strict=True)):
        found = [Part(name, *span) for span in _sentences(text, start, end)]
        # Without a later heading the report itself begins after the first sentence: "History: fall. No fracture."
        ended = name == "context" and number > last_reported
        yield from found[:1] + [replace(part, section=section) for part in found[1:]] if ended else found


def _section(heading: re.Match[str]) -> Section:
    return next(section for section in _HEADINGS if heading[section] or heading[f"line_{section}"])


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Yield the spans of the sentences as `_divided` does."""
    begin = start
    for boundary in _END.finditer(text, start, end):
        sentence = text[begin : boundary.start()]
        if _ABBREVIATED.search(sentence) or (boundary["row"] and not _VALUE.search(sentence)):
            continue
        yield from _divided(text, begin, boundary.start())
        begin = boundary.end()
    yield from _divided(text, begin, end)


def _divided(text: str, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Yield the spans of a sentence: one, or several of at most MAX_SENTENCE characters, all but the first marked."""
    begin = start
    while end - start > MAX_SENTENCE:
        places = list(_DIVISION.finditer(text, start + 1, start + MAX_SENTENCE))
        at_comma = [place for place in places if place.group()[0] in ",;"]
        division = (at_comma or places)[-1].end() if places else start + MAX_SENTENCE
        yield from ((*span, start > begin) for span in _trimmed(text, start, division))
        start = division
    yield from ((*span, start > begin) for span in _trimmed(text, start, end))


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the span without blanks and list markers, if a word is left."""
    words = text[start:end]
    start += len(words) - len(words.lstrip())
    while item := _ITEM.match(text, start, end):
        start = item.end()
    end = start + len(text[start:end].rstrip())
    if re.search(r"\w", text[start:end]):
        yield start, end
