"""Words that tell of a finding on another side than its own: "but none on the right", "the left one has resolved"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker.findings import lexicon, triggers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.findings.certainty import Certainty

#: After a finding on one side: "but none on the right".
NONE_ON = re.compile(
    r"\bnone (?:seen |noted |present )?(?:(?:on|in|at) )?(?:the )?(?P<side>left|right)\b|"
    r"\b(?P<first>left|right)\s*[:=-]?\s*(?:none|nil|no(?=\s*[.,;]))\b"
)
#: After a denied finding: "no nodules except a small one", "no polyps apart from one in the rectum".
EXCEPT_ONE = re.compile(
    r"[^,;.]{0,30}?,?\s*\b(?:apart from|except(?:ing)?(?: for)?|other than|save for|aside from) "
    r"(?:(?:an?|the|for|small|tiny|single|solitary|known|minimal|old|large|\d+|mm|cm) )*(?:one|that|those)\b"
)
#: After a finding on one side: "on the right it has increased", "and persistent on the right".
OTHER_SIDE = re.compile(
    r"[,;] (?:(?:while|whereas|and|but) )?(?:in|on|at) the (?P<side>left|right)(?: (?:side|eye|lung|base))?,? "
    r"(?:(?:it|they) )?(?:(?:is|are|has|have|appears?) )?(?:been )?(?:now )?"
    r"(?:unchanged|stable|increas\w+|decreas\w+|progress\w+|progredient|regredient|larger|smaller|persist\w*|worse\w*|"
    r"improv\w+)(?=\s*(?:[.,;)]|$|in (?:size|extent)\b|since\b|compared\b))|"
    r"(?:[,;]|\b(?:and|but)) (?:(?:is|are|still|now) )*(?:present|persist(?:ent|s|ing)?|unchanged|stable|new|larger|"
    r"smaller|residual|increas(?:ed|ing)|decreas(?:ed|ing)) (?:(?:on|in|at) the )?(?P<other>left|right)"
    r"(?: (?:side|eye|lung|base))?(?=\s*(?:[.,;)]|$))"
)
#: Before a finding that is denied on one side: "small left and no right".
BUT_NO = re.compile(
    rf"(?:^|\b(?:{lexicon.STATED}|an?) )(?P<side>left|right)(?:-sided)?,? (?:and|but) (?:no|resolved|cleared) "
    r"(?!(?P=side)\b)(?:left|right)(?:-sided)? $"
)
#: After a finding that is denied or told of one side: "but there is one on the right", "and a small one on the left".
ONE_ON = re.compile(
    r"(?:\b(?:but|and|though|although|while|whereas)|[,;]) (?:there is )?(?:an? )?"
    r"(?:(?:new|small|tiny|moderate|large) )*"
    r"(?:one (?:is )?(?:seen |noted |present |remains |persists )?(?:on|in|at) (?:the )?(?P<side>left|right)|"
    r"(?P<first>left|right)(?:-sided)? one)\b"
    r"(?!.*\b(?:not|no|resolved|excluded|was|were|previously|before|earlier|formerly)\b)"
)
#: The same finding on the other side: "the left one has resolved".
OTHER_ONE = re.compile(
    r"\b(?:the (?P<side>left|right)(?:-sided)? one|(?:that|those) (?:on|in|at) the (?P<base>left|right)"
    r"(?: (?:side|lung|base|apex))?)\b[^,;]*"
)

#: Before "that on the right", which is present as well.
_COMPARED = re.compile(r"\b(?:than|to|as|with|like) $")


def other_sides(
    sentence: str, mention: re.Match[str], bounds: tuple[int, int], certainty: Certainty
) -> Iterator[tuple[str, Certainty]]:
    """Yield the other sides that words around a mention affirm or deny, with their certainty."""
    before, after = bounds
    told: Certainty = "present" if certainty == "absent" else certainty
    if one := OTHER_ONE.search(sentence, mention.end(), after):
        gone, kept = triggers.POST_NEGATION.search(one.group()), triggers.PERSISTS.search(one.group())
        compared = _COMPARED.search(sentence[: one.start()])
        if one["side"] or (not gone and (kept or compared)):
            yield one["side"] or one["base"], "absent" if gone else told if kept else certainty
    if one := ONE_ON.search(sentence, mention.end(), after):
        doubted = triggers.POST_UNCERTAINTY.search(sentence, one.start(), after)
        yield one["side"] or one["first"], "uncertain" if doubted else told
    more = OTHER_SIDE.search(sentence, mention.end())
    if more and more.end() <= after:
        yield more["side"] or more["other"], told
    if denied := BUT_NO.search(sentence[before : mention.start()]):
        yield denied["side"], told
