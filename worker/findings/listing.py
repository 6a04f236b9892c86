"""Find lists that are denied, doubted or affirmed at their end: "pneumothorax, effusion and nodules are not seen"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from worker.findings import endings, lexicon, triggers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.findings.endings import Ending

Verdict = Literal["present", "uncertain", "absent", "own"]

#: Between the items of a list.
_SEPARATOR = re.compile(
    r"\s*(?:[,;/|]|\b(?:and|or|nor|plus|as well as)\b)(?:\s*\b(?:and|or|nor|as well as)\b)?\s*|\s*,\s*$"
)
_OR = re.compile(r"\b(?:or|nor|as well as)\b")
#: Before the words of which a list consists.
_BOUNDARY = re.compile(
    r"[:?=]|\s[\u2013\u2014-]\s|\b(?:but|however|although|though|except|apart from|other than|whereas|while|despite|"
    r"which|that|because|if)\b"
)
#: Makes a part a statement of its own, which the end of its sentence does not deny.
STATED = re.compile(
    r"\b(?:is|are|was|were|has|have|had|shows?|demonstrates?|contains?|reveals?|there|remains?|persists?|seen|noted|"
    r"present|identified|visible|unchanged|stable|increased|decreased|improved|worsened|new|again|in situ|in place|"
    rf"position(?:ed)?|tip|ends?|terminates?|projects?|measur\w+)\b|{triggers.NEGATION.pattern}|"
    rf"{triggers.UNCERTAINTY.pattern}|{triggers.HISTORY.pattern}"
)
#: Only tells more of the part before it: "pneumothorax, right, resolved".
_PLACE = re.compile(
    r"\s*(?:(?:the|on|in|at|of|left|right|both|bilateral(?:ly)?|upper|middle|mid|lower|zones?|lobes?|lungs?|bases?|"
    r"sides?|eyes?|apex|apices|apical|basal)\b\s*)*"
)
_ARTICLE = re.compile(r"\s*(?:an?|the|any)\b")
#: Says more of a finding than its name.
DETAILED = re.compile(
    rf"{re.sub(r'[?]P<[a-z]+>', '?:', f'{lexicon.SIDE.pattern}|{lexicon.ZONE.pattern}|{lexicon.SIZE.pattern}')}|"
    r"\d\s*(?:mm|cm)\b|\bwith\b"
)


_MEASURED = re.compile(r"(?<![<>] )(?<![<>])(?<!over )(?<!than )\b\d+(?:[.,]\d+)?\s*(?:mm|cm)\b")
_PAIR = 2
_BRACKET = re.compile(r"\([^()]*\)")


@dataclass(frozen=True, slots=True)
class Listed:
    """Verdict on every mention that begins from ``start`` to ``end``; "own": the end of the list does not reach it."""

    start: int
    end: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a list, and the separator after it.

    ``named``: it has the name of a finding; ``detailed``: side, zone or size is told, and no article; ``measured``: a
    length is.
    """

    start: int
    end: int
    separator: str
    named: bool
    detailed: bool
    measured: bool


def listed(sentence: str) -> tuple[Listed, ...]:
    """Return the verdicts on the items of all lists of a sentence in plain words.

    An item is uncertain if two readers could understand the end of its list differently.
    """
    found: list[Listed] = []
    floor = 0
    whole = _indivisible(sentence)
    for ending in endings.of(sentence) if whole else ():
        items, stated = _items(sentence, floor, ending, whole)
        found += _judged(items, ending, in_rows=floor > 0)
        if items and stated:
            found.append(Listed(*stated, "own"))
        floor = ending.end
    return tuple(found)


def verdict(found: tuple[Listed, ...], at: int, start: int) -> Verdict | None:
    """Return the verdict on a mention at offset *start* of a part that begins at *at*, None if no list has it."""
    return next((one.verdict for one in found if one.start <= at + start < one.end), None)


def _indivisible(sentence: str) -> list[tuple[int, int]]:
    """Return the spans of findings' names and of brackets, in order; empty without a name."""
    names = [mention.span() for mention in lexicon.MENTION.finditer(sentence)]
    return sorted(names + [bracket.span() for bracket in _BRACKET.finditer(sentence)]) if names else []


def _items(
    sentence: str, floor: int, ending: Ending, whole: list[tuple[int, int]]
) -> tuple[list[Item], tuple[int, int] | None]:
    """Return the items before an ending, and the span of the statement before them."""
    starts = [boundary.end() for boundary in _BOUNDARY.finditer(sentence, floor, ending.start)]
    items: list[Item] = []
    divided = [*_split(sentence, max([floor, *starts]), ending.start, whole)]
    for number, (start, end, separator) in reversed([*enumerate(divided)]):
        words = sentence[start:end]
        # After "nor", the item is denied by "neither" before it.
        denied = number > 0 and "nor" in divided[number - 1][2].split()
        if denied or STATED.search(words) or (ending.kind == "bracket" and "(" in words):
            return items, (start, end)
        if _PLACE.fullmatch(words):
            if words.strip() and not items and ending.kind == "label":
                # "Left eye: exudates, right eye: none" denies them there.
                return [], None
            continue
        named = _BRACKET.sub("", words)
        detailed = bool(DETAILED.search(named) and not _ARTICLE.match(named))
        finding, measured = lexicon.MENTION.search(words), _MEASURED.search(named)
        items.insert(0, Item(start, end, separator, bool(finding), detailed, bool(measured)))
    return items, None


def _split(sentence: str, start: int, end: int, mentions: list[tuple[int, int]]) -> Iterator[tuple[int, int, str]]:
    """Yield offsets and following separator of each part of ``sentence[start:end]``; no mention is divided."""
    inner = [span for span in mentions if start <= span[0] < end]
    for separator in _SEPARATOR.finditer(sentence, start, end):
        while inner and inner[0][1] <= separator.start():
            inner.pop(0)
        if inner and inner[0][0] < separator.start():
            continue
        yield start, separator.start(), separator.group()
        start = separator.end()
    yield start, end, ""


def _judged(items: list[Item], ending: Ending, *, in_rows: bool) -> Iterator[Listed]:
    """Yield the verdict on each item; *in_rows* if another label was told before: "effusion none, nodule small"."""
    labelled = ending.kind in ("label", "bracket")
    if not items or (len(items) == 1 and not labelled and ending.kind != "all"):
        return
    *earlier, last = items
    yield Listed(last.start, last.end, ending.polarity)
    if ending.polarity == "present":
        return
    for number, item in enumerate(earlier):
        told = labelled and (item.measured or (in_rows and item.detailed))
        yield Listed(item.start, item.end, "own" if told else _of_earlier(items, number, ending))


def _of_earlier(items: list[Item], number: int, ending: Ending) -> Verdict:
    """Return the verdict on an item that is not the last of its list."""
    if ending.kind == "all":
        return ending.polarity
    item, last = items[number], items[-1]
    separators = [other.separator for other in items[number:-1]]
    joined = bool(re.search(r"[a-z]", separators[-1]))
    if (
        ending.polarity == "uncertain"
        and ending.kind in ("bare", "plural", "singular")
        and not joined
        and item.detailed
        and len(items) == _PAIR
    ):
        # As in "left effusion, pneumothorax cannot be excluded".
        return "own"
    if any(";" in separator for separator in separators) and not (joined and ending.kind == "plural"):
        # As in "cardiomegaly; left effusion; pneumothorax: none".
        return "own" if item.detailed or ending.kind != "label" else "uncertain"
    if ending.kind in ("change", "bare") and not (joined or last.named):
        # As in "effusion, drain removed".
        return "own"
    if ending.kind == "singular" and not _OR.search(separators[-1]):
        return "own" if item.detailed and "," in separators[-1] else "uncertain"
    return (
        "uncertain" if _ends_before(items, number) or _is_open(items, item, ending, joined=joined) else ending.polarity
    )


def _ends_before(items: list[Item], number: int) -> bool:
    """Return whether "and" ends the item's list before a comma: "cardiomegaly and effusion, nodules are not seen"."""
    words = [bool(re.search(r"[a-z]", item.separator)) for item in items[:-1]]
    commas = [at for at in range(number, len(words)) if not words[at] and "," in items[at].separator]
    return any(words[: commas[-1]]) if commas else False


def _is_open(items: list[Item], item: Item, ending: Ending, *, joined: bool) -> bool:
    """Return whether an item may be a statement of its own: "left effusion, nodules and masses are not seen".

    "Left effusion and masses are not seen" has one meaning, and so has a list of bare names, unless it is a pair.
    """
    divided = any("," in other.separator or ";" in other.separator for other in items[:-1])
    if item.detailed and not items[-1].detailed and divided:
        return True
    return not joined and (ending.kind == "change" or (ending.kind == "bare" and len(items) == _PAIR))
