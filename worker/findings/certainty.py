"""Decide whether a sentence affirms, doubts or denies a finding that it names.

Rules in the manner of NegEx (Chapman et al. 2001): a negation or an uncertainty reaches from its trigger to a
termination.
"""

from __future__ import annotations

import re
from typing import Literal

from worker.findings import lexicon

Certainty = Literal["present", "uncertain", "absent"]

_NOT_ENLARGED = re.compile(r"\bnot\b.*\benlarged")
_SINGULAR = re.compile(r"(?:is|was|has)\b")
#: After the first comma: "no effusion, and cardiomegaly" is not a list, "no effusion, nodule, and mass" is one.
_AND = re.compile(r"\s*and\b")
_NEW_PART = re.compile(r",|\s+and (?:an?|the)\b")
#: Before the last item of a list that is negated as a whole.
_LIST_END = re.compile(r"\b(?:or|nor|and)\b")
#: Joins two findings, or two parts of a sentence.
JOIN = re.compile(r",|\b(?:and|or|with|but|however|nor)\b|;")


def certainty(sentence: str, mention: re.Match[str], after: int) -> Certainty:
    """Return the certainty of a mention; *after* is the offset of the next one, or the end of the sentence."""
    start = max((found.end() for found in lexicon.TERMINATION.finditer(sentence, 0, mention.start())), default=0)
    # From the mention on: "no, but there is an effusion" must not end the negation at its own trigger.
    termination = lexicon.TERMINATION.search(sentence, mention.end())
    end = termination.start() if termination else len(sentence)
    clause, here = sentence[start:end], mention.start() - start

    def applies(before: re.Pattern[str], behind: re.Pattern[str]) -> bool:
        return _reaches(before, clause, here) or _follows(behind, sentence, mention.end(), after, end)

    if sentence.rstrip().endswith("?") or applies(lexicon.UNCERTAINTY, lexicon.POST_UNCERTAINTY):
        return "uncertain"
    listed = lexicon.LIST_NEGATION.match(sentence, mention.end()) or _NOT_ENLARGED.search(mention.group())
    return "absent" if listed or applies(lexicon.NEGATION, lexicon.POST_NEGATION) else "present"


def _follows(triggers: re.Pattern[str], sentence: str, start: int, after: int, end: int) -> bool:
    """Return whether a trigger after a mention applies to it: before the next mention, or to a list of mentions.

    After a new clause it applies to that clause only, as does a singular verb after "and".
    """
    trigger = triggers.search(sentence, start, end)
    if trigger is None:
        return False
    if trigger.start() < after:
        return _applies(sentence, start, trigger, after)
    mentions = lexicon.MENTION.finditer(sentence, after, trigger.start())
    between = sentence[start : max((mention.start() for mention in mentions), default=trigger.start())]
    to_the_last = _SINGULAR.match(trigger.group()) and re.search(r"\band\b", between)
    return not to_the_last and _is_list(between)


def _applies(sentence: str, start: int, trigger: re.Match[str], after: int) -> bool:
    """Return whether a trigger before the next mention has no other subject ("effusion, drain was removed").

    A participle right before the next mention belongs to that one: "effusion, healed rib fracture".
    """
    joins = [*JOIN.finditer(sentence, start, trigger.start())]
    if joins and not lexicon.PLACE.fullmatch(sentence, joins[-1].end(), trigger.start()):
        return False
    bare = lexicon.PARTICIPLE.match(trigger.group().strip())
    rest = sentence[trigger.end() : after]
    return not (bare and after < len(sentence) and re.fullmatch(r"\s+(?:\w+\s+){0,3}", rest))


def _reaches(triggers: re.Pattern[str], clause: str, here: int) -> bool:
    """Return whether a trigger before offset *here* of a clause reaches the mention there.

    It reaches through a list ("no effusion, consolidation or nodule"), but no part with its own side or verb after a
    comma ("no effusion, left nodule").
    """
    found = [*triggers.finditer(clause, 0, here)]
    if not found:
        return False
    trigger = found[-1].end()
    part = max((new.start() for new in _NEW_PART.finditer(clause, trigger, here)), default=-1)
    if part < 0:
        return True
    own, rest = clause[part:here].lstrip(","), clause[part + 1 :].split(",", maxsplit=1)[0]
    if lexicon.CLAUSE.match(own) or lexicon.ASSERTED.search(own):
        return False
    if _AND.match(own) and "," not in clause[trigger:part]:
        return False
    joined = _LIST_END.search(clause, trigger)
    return bool(joined) or not any(own_words.search(rest) for own_words in (lexicon.SIDE, lexicon.ZONE, lexicon.SIZE))


def _is_list(text: str) -> bool:
    """Return whether *text* holds only names joined by commas, "and" or "or"."""
    return not re.search(r"\b(?:is|are|was|were|has|have|shows?|seen)\b", text) and not _NEW_PART.search(text, 1)
