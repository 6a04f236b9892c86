"""The resolution of a finding, where a denial or doubt alone would be misread.

Removed with a remnant, explained by an artefact, expanded again, or gone in part.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker.findings import triggers

if TYPE_CHECKING:
    from worker.findings.certainty import Certainty

#: German "Ausschluss", and what says that it is still to be done: "exclusion of a pneumothorax requires a CT".
_EXCLUSION = re.compile(r"exclusion of")
_STILL_TO_DO = re.compile(
    r"\b(?:requires?|required|needs?|needed|not|recommended|advised|suggested|should|cannot|may|can|limited|difficult|"
    r"impossible|possible|desired|requested)\b"
)
#: Ends a bleeding, and no finding beside it: "bleeding from a diverticulum, stopped after clipping".
STOPPED = re.compile(r"\b(?:stopped|ceased)\b")
_BLEEDING_FROM = re.compile(r"\b(?:bleed(?:ing|s)?|oozing|ha?emorrhages?) (?:from|of|at|in) (?:\w+ ){0,4}$")
#: A lung that was collapsed, or a pneumothorax, right before the words that end it.
_EXPANDED = re.compile(
    r"(?: on the (?:left|right)| [^,;.]{0,40},|,)?\s*(?:has|have|is|are) "
    r"(?:(?:now|since|again|completely|fully|entirely) )*"
    r"(?:re-?expanded|re-?aerated|expanded|aerated)(?! (?:part|incompl|only))\b"
)
_DEVICE = re.compile(r"tube|line|catheter|ett|picc|jugular|pacemaker|cath")
_OUT = re.compile(r"(?: (?:is|now|has been|already))* out(?=\s*(?:[.,;)]|$))")
#: After a removed finding: some of it is left.
_LEAVING = re.compile(r"ha?ematoma|ha?emorrhage|effusion|collection|subdural|tumou?r|mass|pneumothora")
_RESIDUAL = re.compile(
    r"[^,;.]{0,40}?(?:,|\b(?:with|and)\b)[ ,]*(?:with |and )?(?:an? )?(?:(?!no\b|not\b|without\b)\w+ ){0,2}?"
    r"(?:residual|remaining|recurrent)\s+(?:\w+ ){0,2}?"
    r"(?:collections?|components?|rim|blood|fluid|portions?|fragments?|disease|air|gas)\b"
)
_DOUBT = "may|might|could|probably|possibly|likely|perhaps"
_EXPLANATION = (
    r"(?:nipple(?: shadow)?s?|skin ?folds?|artefacts?|artifacts?|summation(?: shadows?)?|superimposition|"
    r"overl(?:apping|ying) (?:vessels?|structures?|clothing|shadows?|ribs?)|vessels? (?:end|seen)[- ]on|"
    r"volume averaging|normal variants?)\b"
)
#: After a finding: what it may be instead, an explanation that is no finding.
_INNOCENT = re.compile(
    r"(?:(?!\b(?:and|or|but|with)\b)[^,;:.]){0,60}?"
    rf"(?:, (?:which |that )?)?\s*\b(?:{_DOUBT})\b (?:well )?"
    r"(?:just |merely |only |simply )?"
    r"(?:represents?|reflects?|be|is|indicate|correspond to|due to)?\s*(?:due to )?(?:an? |the )?"
    rf"(?:\w+ )?{_EXPLANATION}"
)
#: The same, without a doubt.
_EXPLAINED = re.compile(
    rf"(?:(?!\b(?:and|or|but|with|{_DOUBT})\b)[^,;:.]){{0,60}}?"
    r"\b(?:is|are|was|were|represents?|reflects?|corresponds? to) "
    rf"(?:(?:only|merely|just|simply|clearly|due to|an?|the) )*{_EXPLANATION}(?=\s*(?:[.,;)]|$))"
)
_SOME = (
    r"(?<!the )(?<!left )(?<!right )\b"
    r"(?:one|two|three|four|five|some|most|many|several|parts?|half|a few|the majority)"
)
#: Denied of some findings and not of all: "one of the nodules has resolved", "nodules, two have resolved".
_SOME_OF = re.compile(rf"{_SOME} of (?:the|these|those) (?:\w+ )*$")
_SOME_GONE = re.compile(
    rf"{_SOME}(?: of (?:them|these|those|which))? (?:{triggers.BE} )+(?:\w+ly )?(?:{triggers.RESOLVED}|not|no longer)\b"
)


def is_out(sentence: str, mention: re.Match[str]) -> bool:
    """Return whether a device was removed: "ETT out"."""
    return bool(_DEVICE.search(mention.group()) and _OUT.match(sentence, mention.end()))


def explained(sentence: str, mention: re.Match[str]) -> Certainty | None:
    """Return the certainty of a mention that *sentence*, to the end of its clause, explains by something else."""
    collapsed = re.search(r"pneumothora|collaps|atelecta", mention.group())
    if (
        is_out(sentence, mention)
        or _EXPLAINED.match(sentence, mention.end())
        or (collapsed and _EXPANDED.match(sentence, mention.end()))
    ):
        return "absent"
    return "uncertain" if _INNOCENT.match(sentence, mention.end()) else None


def is_still_to_exclude(denial: str, rest: str) -> bool:
    """Return whether *denial* is an exclusion that the words after the finding demand or deny."""
    return bool(_EXCLUSION.fullmatch(denial) and _STILL_TO_DO.search(rest))


def is_left(sentence: str, mention: re.Match[str]) -> bool:
    """Return whether some of a finding that was removed is left: "haematoma evacuated, with a residual collection"."""
    return bool(_LEAVING.search(mention.group()) and _RESIDUAL.match(sentence, mention.end()))


def is_of_some(sentence: str, mention: re.Match[str], end: int) -> bool:
    """Return whether a denial after the mention is about some of several findings."""
    before = _SOME_OF.search(sentence[: mention.start()])
    return bool(before or _SOME_GONE.search(sentence, mention.end(), end))


def bleeds_from(words: str) -> bool:
    """Return whether *words*, up to a mention, name a bleeding from it: "bleeding from the polyp"."""
    return _BLEEDING_FROM.search(words) is not None
