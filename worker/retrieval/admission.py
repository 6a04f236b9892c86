"""Clean the report of an earlier case before it is stored: a quoted text may reach the draft of another patient.

Removed are comparisons with earlier examinations, which the model would invent, tokens of de-identified archives, and
text that may identify a person. Nothing is removed silently: each removal is returned for the operator to read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from worker.findings.identifying import readable, spans
from worker.findings.labeller import mentions_prior, present, sentences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.findings.labeller import Sentence

#: Placeholders of de-identified archives: MIMIC's underscores and brackets, Indiana's capital X, tags.
PLACEHOLDER = re.compile(
    r"\[\*\*.*?\*\*\]|_{2,}|\bX{3,}\b"
    r"|[\[<]{1,4}(?:NAME|DATE|PERSON|PATIENT|DOCTOR|HOSPITAL|LOCATION|REDACTED|PHI|ID|AGE)\b[^\]>]*[\]>]+",
    re.IGNORECASE,
)
#: A long number, as of a patient, a study or a telephone.
LONG_NUMBER = re.compile(r"(?<![\d.])(?:\+?\d[\s().-]{0,2}){9,13}\d(?!\d)")
#: Words that led to text that was removed: "effusion since ."
_HANGING = re.compile(
    r"(?:[\s,:;(]+|\b(?:on|since|at|by|of|from|to|with|in|by|and|per|for|the)\b)+(?=[.;)]*$)", re.IGNORECASE
)
#: Words of a comparison that can be left out of a statement of a finding.
COMPARISON = re.compile(
    r",?\s*\b(?:as\s+)?(?:(?:un|not\s+(?:significantly\s+)?)changed|stable|again\s+(?:seen|noted|demonstrated)"
    r"|(?:has\s+|have\s+)?(?:increased|decreased|improved|worsened|progressed)(?:\s+in\s+size)?)?"
    r"\s*(?:(?:as\s+)?compared\s+(?:to|with)|in\s+comparison\s+(?:to|with)|since|from|relative\s+to)"
    r"\s+(?:the\s+|a\s+)?(?:most\s+recent\s+|last\s+)?(?:prior|previous|earlier|preceding|old)[^.,;]*",
    re.IGNORECASE,
)

#: Words that compare, without which a statement of a finding or its denial is still one: "no new nodule".
_TIME = re.compile(
    r",?\s*\b(?:new(?:ly)?|persist(?:ent|ing)|(?:remains? )?(?:stable|unchanged)|again|interval|previously)\b",
    re.IGNORECASE,
)


class Removed(NamedTuple):
    """Text that was removed, and why."""

    reason: str
    text: str


class Cleaned(NamedTuple):
    """A report without what must not be quoted, and what was removed."""

    report: str
    removed: list[Removed]


def cleaned(report: str) -> Cleaned:
    """Clean a report; a statement of a finding keeps its finding."""
    report, removed = readable(report), list[Removed]()
    # In the whole text: a sentence may end within a shape, as after "Mr.".
    identifying = spans(report) + [number.span() for number in LONG_NUMBER.finditer(report)]
    parts, end = [], 0
    for sentence in sentences(report):
        between = _cut(report, (end, sentence.start), identifying)
        parts += [_without_placeholders(between, removed), _clean(report, sentence, identifying, removed)]
        end = sentence.end
    rest = _cut(report, (end, len(report)), identifying)
    text = "".join([*parts, _without_placeholders(rest, removed)])
    return Cleaned(re.sub(r"[ \t]{2,}", " ", text).strip(), removed)


def _cut(report: str, bounds: tuple[int, int], identifying: Sequence[tuple[int, int]]) -> str:
    """Return the text of *report* within *bounds*, without spans of *identifying* text."""
    kept = [True] * (bounds[1] - bounds[0])
    for start, end in identifying:
        first, last = max(start, bounds[0]), min(end, bounds[1])
        kept[first - bounds[0] : max(last, first) - bounds[0]] = [False] * max(last - first, 0)
    return "".join(letter for letter, keep in zip(report[slice(*bounds)], kept, strict=True) if keep)


def _clean(report: str, sentence: Sentence, identifying: Sequence[tuple[int, int]], removed: list[Removed]) -> str:
    text = _cut(report, (sentence.start, sentence.end), identifying)
    if text != sentence.text:
        removed.append(Removed("may identify a person", sentence.text))
        # Closed, so that the next sentence is another one.
        text = f"{_HANGING.sub('', _tidy(text)).rstrip('.')}." if sentence.mentions else ""
    text = _without_placeholders(text, removed)
    if sentence.section == "context":
        if mentions_prior(text):
            removed.append(Removed("comparison with an earlier examination", text))
            return ""
        return text
    if text and mentions_prior(text):
        removed.append(Removed("comparison with an earlier examination", text))
        shorter = _tidy(_TIME.sub("", COMPARISON.sub("", text)))
        # A cut may reach too far: "new since the prior study: left effusion".
        kept = present(shorter) == present(text) and not mentions_prior(shorter)
        text = shorter if sentence.mentions and kept else _findings(text)
    return text


def _without_placeholders(text: str, removed: list[Removed]) -> str:
    found = PLACEHOLDER.findall(text)
    removed += [Removed("placeholder of a de-identified archive", token) for token in found]
    return _tidy(PLACEHOLDER.sub("", text)) if found else text


def _findings(text: str) -> str:
    """Return the affirmed findings of a sentence as plain statements: without them the report would deny them."""
    words = [" ".join(filter(None, (f.size, f.side, f.zone, f.finding))) for f in sorted(present(text))]
    return " ".join(f"{word.capitalize()}." for word in words)


def _tidy(text: str) -> str:
    """Close the gap that a removal leaves."""
    return re.sub(r"\s+([.,;])", r"\1", re.sub(r"[ \t]{2,}", " ", text))
