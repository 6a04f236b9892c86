"""Statements that an organ is normal, and the findings that they deny without a name: "the lungs are clear"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker.findings.labeller import Label

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.findings.labeller import Sentence

_BE = r"(?:(?:is|are|appears?|remains?|looks?)\s+)?(?:\w+ly\s+)?"
_NORMAL = r"(?:clear|normal|unremarkable|free)\b(?!\W+(?:of|from|variant)\b)"
_OPACITIES = ("consolidation", "opacity", "atelectasis", "nodule", "mass", "miliary opacities", "pulmonary oedema")
_SIDE = r"(?:(?P<side>left|right) )?"
#: Organ called normal -> the findings that it then lacks. The group `side` limits it to one side.
_STATEMENTS = (
    (
        rf"\b{_SIDE}(?:lungs?|lung fields?|lung zones)\s+{_BE}{_NORMAL}|^\W*(?:clear|normal) lungs?\b",
        _OPACITIES,
    ),
    (
        rf"\bpleural? (?:spaces? |surfaces? )?{_BE}{_NORMAL}|\bnormal pleura\b",
        ("pleural effusion", "pneumothorax"),
    ),
    (
        rf"\b{_SIDE}costophrenic (?:angles?|sulc(?:us|i)|recess(?:es)?) {_BE}(?:sharp|clear|preserved)\b",
        ("pleural effusion",),
    ),
    (
        rf"\b(?:(?:heart|silhouette)(?: size)? {_BE}(?:normal|not enlarged|of normal size)|normal heart size)\b",
        ("cardiomegaly",),
    ),
    (
        rf"\bventricles?(?: and sulci| size)? {_BE}(?:normal|not (?:dilated|enlarged)|of normal size)\b",
        ("hydrocephalus",),
    ),
    (
        rf"\bmidline (?:structures )?{_BE}(?:not shifted|central|midline|in (?:place|position))\b",
        ("midline shift",),
    ),
    (rf"\bhil(?:a|um) {_BE}(?:normal|not enlarged|unremarkable)\b", ("hilar enlargement",)),
)
#: In a sentence that calls only the rest of an organ normal.
_REST = re.compile(
    r"\b(?:otherwise|elsewhere|remaind\w*|remaining|rest|other|apart|except\w*|aside|but|besides?)\b", re.IGNORECASE
)
_COMPILED = [(re.compile(words, re.IGNORECASE), findings) for words, findings in _STATEMENTS]


def denied_by(sentence: Sentence) -> Iterator[Label]:
    """Yield the findings that a sentence denies by calling an organ normal."""
    if _REST.search(sentence.text):
        return
    for words, findings in _COMPILED:
        if found := words.search(sentence.text):
            side = (found.groupdict().get("side") or "").lower()
            yield from (Label(finding, side, certainty="absent") for finding in findings)
