"""Words that tell of a finding on another side than its own: "but none on the right", "the left one has resolved"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker.findings import triggers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.findings.certainty import Certainty

#: After a finding on one side: "but none on the right".
NONE_ON = re.compile(
    r"\bnone (?:seen |noted |present )?(?:(?:on|in|at) )?(?:the )?(?P<side>left|right)\b|"
    r"\b(?P<first>left|right)\s*[:=-]?\s*(?:none|nil|no(?=\s*[.,;]))\b"
)
#: Before a finding that is denied on one side: "small left and no right".
BUT_NO = re.compile(
    r"(?:^|\b(?:small|tiny|minimal|trace|moderate|large|an?) )(?P<side>left|right)(?:-sided)?,? (?:and|but) no "
    r"(?!(?P=side)\b)(?:left|right)(?:-sided)? $"
)
#: After a finding that is denied or told of one side: "but there is one on the right", "and a small one on the left".
ONE_ON = re.compile(
    r"(?:\b(?:but|and)|,) (?:there is )?(?:an? )?(?:(?:new|small|tiny|moderate|large) )*"
    r"(?:one (?:is )?(?:seen |noted |present )?(?:on|in|at) (?:the )?(?P<side>left|right)|"
    r"(?P<first>left|right)(?:-sided)? one)\b(?!.*\b(?:not|no|resolved|excluded)\b)"
)
#: The same finding on the other side: "the left one has resolved".
OTHER_ONE = re.compile(r"\bthe (?P<side>left|right)(?:-sided)? one\b[^,;]*")


def other_sides(
    sentence: str, mention: re.Match[str], bounds: tuple[int, int], certainty: Certainty
) -> Iterator[tuple[str, Certainty]]:
    """Yield the other sides that words around a mention affirm or deny, with their certainty."""
    before, after = bounds
    told: Certainty = "present" if certainty == "absent" else certainty
    if one := OTHER_ONE.search(sentence, mention.end(), after):
        gone, kept = triggers.POST_NEGATION.search(one.group()), triggers.PERSISTS.search(one.group())
        yield one["side"], "absent" if gone else told if kept else certainty
    if one := ONE_ON.search(sentence, mention.end(), after):
        yield one["side"] or one["first"], told
    if denied := BUT_NO.search(sentence[before : mention.start()]):
        yield denied["side"], told
