"""Checks of the words of a text: prior studies, repetition, truncation, missing impression, identifying text."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from worker.findings.identifying import kinds
from worker.findings.labeller import mentions_prior

if TYPE_CHECKING:
    from worker.grounding.checks.draft import DraftPart

#: Times that a sentence may stand in one section.
MAX_REPEATED = 2
#: Words of a phrase, and the times that it may stand in a text: in findings and impression, for both sides.
PHRASE, MAX_PHRASE = 8, 4
#: Characters that are searched for repeated phrases: longer than any report of the model.
_MAX_SEARCHED = 8000
#: One to eight words, three times in a row.
_LOOP = re.compile(r"\b(\w+(?:\W+\w+){0,7})(?:\W+\1\b){2}", re.IGNORECASE)
#: End of a complete text; a list or a table may end with a closing bracket.
_END = re.compile(r"[.!?)\]:%\d]\W*$")


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
    if times > MAX_REPEATED or _LOOP.search(part.text[:_MAX_SEARCHED]) or _phrases(part.text[:_MAX_SEARCHED]):
        return ["The text repeats itself."]
    return []


def _phrases(text: str) -> bool:
    """Return whether *text* has the same PHRASE words in a row more than MAX_PHRASE times; numbers are left out."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    ends = range(PHRASE, len(words) + 1)
    times = Counter(tuple(words[end - PHRASE : end]) for end in ends)
    return max(times.values(), default=0) > MAX_PHRASE


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
    return [f"The text contains the shape of {kind}." for kind in kinds(part.text)]
