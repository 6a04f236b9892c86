"""Checks of the words of a text: prior studies, repetition, truncation, missing impression, identifying text."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from worker.findings.labeller import mentions_prior

if TYPE_CHECKING:
    from worker.grounding.checks.draft import DraftPart

#: Times that a sentence may stand in one section.
MAX_REPEATED = 2
#: Characters that are searched for repeated phrases: longer than any report of the model.
_MAX_SEARCHED = 8000
#: One to eight words, three times in a row.
_LOOP = re.compile(r"\b(\w+(?:\W+\w+){0,7})(?:\W+\1\b){2}", re.IGNORECASE)
#: End of a complete text; a list or a table may end with a closing bracket.
_END = re.compile(r"[.!?)\]:%\d]\W*$")

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_TITLE = r"(?:dr|prof|mr|mrs|ms|miss|sir|frau|herr)\b\.?"
#: Kind -> its shape. Images hold no such text that a report may repeat, and the prompt names nobody.
IDENTIFYING = {
    "a date": re.compile(
        rf"\b(?:\d{{1,2}}[./-]\d{{1,2}}[./-](?:19|20)?\d{{2}}|(?:19|20)\d{{2}}[./-]\d{{1,2}}[./-]\d{{1,2}}"
        rf"|(?:19|20)\d{{2}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
        rf"|\d{{1,2}}(?:st|nd|rd|th|\.)?\s+(?:of\s+)?{_MONTH}\s*,?\s+(?:19|20)?\d{{2}}"
        rf"|{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?\s*,?\s+(?:19|20)\d{{2}})\b",
        re.IGNORECASE,
    ),
    "a name": re.compile(
        rf"\b(?i:{_TITLE})\s+(?:[A-Z][\w'-]+)|\b(?i:patient(?:'s)?(?: name)?|name|signed(?: by)?|dictated by"
        r"|reported by|attending|radiologist|physician|electronically signed(?: by)?)\s*[:=]\s*[A-Z]\w+"
        r"|\b[A-Z][\w'-]+\^[A-Z][\w'-]+|\b(?i:discussed with|informed|communicated to|signed by)\s+[A-Z][\w'-]+",
    ),
    "a number of a patient or study": re.compile(
        r"\b(?:mrn|patient id|pat\.? ?id|accession(?: (?:no|number))?|id|ssn|case (?:no|number)|nhs(?: number)?)"
        r"\s*[.:#=]?\s*[A-Z]{0,4}-?\d{3,}|\b\d{3}-\d{2}-\d{4}\b|\b[A-Z]{0,4}\d{7,}\b|\b\d+(?:\.\d+){5,}\b",
        re.IGNORECASE,
    ),
    "a telephone number": re.compile(
        r"\b(?:tel|phone|telephone|fax|pager|ext|extension|call)\b\W{0,3}(?:no\.?|at|number)?\W{0,3}\d[\d\s()/-]{2,}\d"
        r"|(?<![\d.])\+\d{1,3}[\s()/.-]*\d(?:[\s()/.-]?\d){6,}|\(\d{3}\)\s*\d{3}[\s-]\d{4}|\b\d{3}[-.\s]\d{3}[-.\s]\d{4}\b",
        re.IGNORECASE,
    ),
    "an address": re.compile(
        r"[\w.+-]+@[\w-]+\.[\w.]+|https?://\S+|\bwww\.\S+|\b\d{1,5} [A-Z]\w+ (?:Street|St|Avenue|Ave|Road|Rd|Lane)\b"
    ),
    "a mark of removed text": re.compile(r"\[\*\*.*?\*\*\]|_{3,}|\bX{4,}\b|\[(?:NAME|DATE|REDACTED|PHI)[^\]]*\]"),
    "the age of the patient": re.compile(r"\b\d{1,3}[- ]?(?:years?|yrs?|yo?|y/o)[- ]?(?:old|of age)\b", re.IGNORECASE),
}


def prior(part: DraftPart) -> list[str]:
    """Find comparisons with an earlier examination."""
    text = "The text compares with an earlier examination; the model has received none of this patient."
    return [text] if mentions_prior(part.text) else []


def repetition(part: DraftPart) -> list[str]:
    """Find sentences and phrases that repeat: a model in a loop."""
    counts = Counter(
        " ".join(line.text.lower().split()) for _, lines in part.sections for line in lines if len(line.text) > 1
    )
    times = max(counts.values(), default=0)
    # Findings and impression may state the same once each.
    if times > MAX_REPEATED or _LOOP.search(part.text[:_MAX_SEARCHED]):
        return ["The text repeats itself."]
    return []


def truncation(part: DraftPart) -> list[str]:
    """Find a text without its end."""
    if part.cut_off:
        return ["The text was cut off at its limit."]
    return [] if _END.search(part.text) else ["The text ends within a sentence."]


def impression(part: DraftPart) -> list[str]:
    """Find a report without an impression."""
    return [] if any(c.isalnum() for c in part.impression) else ["The report has no impression."]


def identifying(part: DraftPart) -> list[str]:
    """Find text that identifies a person; the sentence names the kind and repeats nothing."""
    return [f"The text contains the shape of {kind}." for kind, shape in IDENTIFYING.items() if shape.search(part.text)]
