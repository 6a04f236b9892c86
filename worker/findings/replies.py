"""Sentences that deny or affirm what the one before them only names: "Effusion. Nodule. None of these is seen."."""

from __future__ import annotations

import re
from typing import Literal

from worker.findings import lexicon, listing, triggers

#: Denies all names before it; denies, or affirms with a value, the last one.
Reply = Literal["none of these", "none", "value"]

_NONE_OF_THESE = re.compile(
    rf"\s*{triggers.NONE_OF}|"
    r"\s*(?:they|these|all)(?: of (?:these|them|the above))? (?:are |were )?(?:all )?"
    r"(?:absent|negative|excluded|ruled out)\s*[.;]?\s*$"
)
_NONE = re.compile(
    rf"\s*(?:(?:none|nil|no|absent|negative)(?: (?:(?:is|are|was|were) )?{triggers.SEEN})?|not {triggers.SEEN})"
    r"\s*[.;]?\s*$"
)
_VALUE = re.compile(rf"\s*(?:\d|yes\b|present\b|positive\b|{lexicon.SIZE.pattern}|{lexicon.SIDE.pattern})")


def reply(words: str, *, after_colon: bool) -> Reply | None:
    """Return how a sentence without a finding speaks of the one before it; *after_colon* if that ends with one."""
    if _NONE_OF_THESE.match(words):
        return "none of these"
    if _NONE.match(words):
        return "none"
    return "value" if after_colon and _VALUE.match(words) else None


def only_names(words: str) -> bool:
    """Return whether a sentence says of its findings no more than their names."""
    return not listing.STATED.search(words) and not listing.DETAILED.search(words)
