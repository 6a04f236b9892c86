"""Clean the report of an earlier case before it is stored: a quoted text may reach the draft of another patient.

Removed are comparisons with earlier examinations, which the model would invent, tokens of de-identified archives, and
text that may identify a person. Nothing is removed silently: each removal is returned for the operator to read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from worker.findings.labeller import mentions_prior, present, sentences

if TYPE_CHECKING:
    from worker.findings.labeller import Sentence

#: Placeholders of de-identified archives: MIMIC's underscores and brackets, Indiana's capital X, tags.
PLACEHOLDER = re.compile(
    r"\[\*\*.*?\*\*\]|_{2,}|\bX{3,}\b|<(?:NAME|DATE|PERSON|REDACTED)[^>]*>|\[(?:REDACTED|NAME|DATE)\]", re.IGNORECASE
)
#: Shapes of identifying text.
IDENTIFYING = re.compile(
    r"\b(?:Drs?|Mrs?|Ms|Prof)\.?\s+[A-Z][\w'-]+"
    r"|\b(?:MRN|accession|patient\s+(?:id|name)|DOB|SSN)\b[\s:#]*[\w-]*\d[\w-]*"
    r"|\b(?:patient\s+name|name)\s*:\s*[A-Z][\w^,' -]+"
    r"|\b\d{1,4}[-/.]\d{1,2}[-/.]\d{2,4}\b"
    r"|\b\d{1,2}(?:st|nd|rd|th)?\s+(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?,?\s+\d{4}\b"
    r"|\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?\s+\d{1,2},?\s+\d{4}\b"
    r"|\b\d{1,2}:\d{2}\s*(?:[ap]\.?m\.?|hours|h)\b"
    r"|(?<!\d)(?:\+?\d[\s().-]{0,2}){9,13}\d(?!\d)"
    r"|\b[\w.+-]+@[\w-]+\.\w+"
)
#: Words of a comparison that can be left out of a statement of a finding.
COMPARISON = re.compile(
    r",?\s*\b(?:as\s+)?(?:(?:un|not\s+(?:significantly\s+)?)changed|stable|again\s+(?:seen|noted|demonstrated)"
    r"|(?:has\s+|have\s+)?(?:increased|decreased|improved|worsened|progressed)(?:\s+in\s+size)?)?"
    r"\s*(?:(?:as\s+)?compared\s+(?:to|with)|in\s+comparison\s+(?:to|with)|since|from|relative\s+to)"
    r"\s+(?:the\s+|a\s+)?(?:most\s+recent\s+|last\s+)?(?:prior|previous|earlier|preceding|old)[^.,;]*",
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
    removed: list[Removed] = []
    parts, end = [], 0
    for sentence in sentences(report):
        parts += [_without_placeholders(report[end : sentence.start], removed), _clean(sentence, removed)]
        end = sentence.end
    text = "".join([*parts, _without_placeholders(report[end:], removed)])
    return Cleaned(re.sub(r"[ \t]{2,}", " ", text).strip(), removed)


def _clean(sentence: Sentence, removed: list[Removed]) -> str:
    text = _without_placeholders(sentence.text, removed)
    if IDENTIFYING.search(text):
        removed.append(Removed("may identify a person", text))
        text = _tidy(IDENTIFYING.sub("", text)) if sentence.mentions else ""
    if sentence.section == "context":
        if mentions_prior(text):
            removed.append(Removed("comparison with an earlier examination", text))
            return ""
        return text
    if text and mentions_prior(text):
        removed.append(Removed("comparison with an earlier examination", text))
        shorter = _tidy(COMPARISON.sub("", text))
        text = shorter if sentence.mentions and not mentions_prior(shorter) else _findings(text)
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
