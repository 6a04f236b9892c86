"""Decide whether a sentence affirms, doubts or denies a finding that it names.

Rules in the manner of NegEx (Chapman et al. 2001): a negation or an uncertainty reaches from its trigger to a
termination.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from worker.findings import lexicon, resolution, triggers

if TYPE_CHECKING:
    from worker.findings.listing import Verdict

Certainty = Literal["present", "uncertain", "absent"]

_NOT = re.compile(r"\bnot\b(?! further classified)")
_SINGULAR = re.compile(r"(?:is|was|has)\b")
#: After the first comma: "no effusion, and cardiomegaly" is not a list, "no effusion, nodule, and mass" is one.
_AND = re.compile(r"\s*and\b")
_NEW_PART = re.compile(rf",|\s+and (?:an?|the|(?P<own>{triggers.OF_ITS_OWN}))\b|{triggers.BESIDE}")
BESIDE = re.compile(triggers.BESIDE)
#: Before the last item of a list that is negated as a whole.
_LIST_END = re.compile(r"\b(?:or|nor|and)\b")
_OR = re.compile(r"\b(?:or|nor)\b")
#: Begins a part with an article or a size, which only "or" makes an item of a denied list.
_FRESH = re.compile(rf"\s*(?:(?:an?|the|only|merely|just)\b|{lexicon.SIZE.pattern})")
#: Joins two findings, or two parts of a sentence.
JOIN = re.compile(r",|\b(?:and|or|(?<!consistent )(?<!compatible )(?<!keeping )with|but|however|nor)\b|;")
#: Between two findings of which one is meant.
_ALTERNATIVE = re.compile(r"\s*(?:(?!(?:no|not|without)\b)\w+\s+){0,3}(?:and/)?or\s+(?:\w+\s+){0,3}")
_EMPTY_BOX = re.compile(r"\[\s*\]|\u2610")
#: Between a sign of a finding and its doubted name.
_DOUBTFUL_CAUSE = re.compile(
    r",?\s*(?:which |that )?(?:may|might|could|possibly|probably|likely)\b[^,;]*\b"
    r"(?:represent|reflect|indicate|suggest|due to|be an?)\w*\b[^,;]*|"
    rf",\s*(?:most )?(?:possibly|probably|likely) (?:an? )?(?:(?:{lexicon.SIZE.pattern}) )?"
)
#: Between the findings of a list that is denied as a whole: "pneumothorax, effusion: none".
_ENUMERATED = re.compile(r"(?:\s|,|/|\b(?:and|or|acute|focal)\b)*")
#: Between a participle and the finding that it describes: "healed old rib fracture", not "removed with pneumothorax".
_ATTRIBUTE_OF_NEXT = re.compile(r"\s+(?:(?!(?:with|without|after|by|from|following|since)\b)\w+\s+){0,3}")
#: Subject of its own between a mention and a trigger: "hydrocephalus has increased since the shunt was removed".
_SUBJECT = re.compile(r"\b(?:since|because|when|once|until) (?:the|an?|this|that) (?:[^\W\d]\w* ){1,4}$")
#: Side right after a trigger: "not seen on the right".
_SIDE_AFTER = re.compile(r"\s*(?:on|in|at) (?:the )?(?:left|right)\b")
#: Letters before an evidence trigger in which a negation denies the evidence: "no findings suspicious for".
_NO_EVIDENCE = re.compile(r"\b(?:no|not|without|nothing|never|\w+n't)\b[^,;:]{0,40}$")


def without_false_negations(sentence: str) -> str:
    """Return *sentence* with the words blanked that resemble a negation, so that offsets stay valid."""
    spans = [match.span() for match in triggers.PSEUDO_NEGATION.finditer(sentence)]
    spans += [match.span(name) for match in triggers.DOUBLE_NEGATION.finditer(sentence) for name in ("a", "b")]
    spans += [match.span("colon") for match in triggers.NEGATED_LIST.finditer(sentence)]
    spans += [match.span(match.lastgroup or 0) for match in triggers.HARDWARE_FAILURE.finditer(sentence)]
    return blanked(resolution.with_change_apart(sentence), spans)


def blanked(sentence: str, spans: list[tuple[int, int]]) -> str:
    """Return *sentence* with blanks at *spans*."""
    for start, end in spans:
        sentence = sentence[:start] + " " * (end - start) + sentence[end:]
    return sentence


def certainty(sentence: str, mention: re.Match[str], after: int, verdict: Verdict | None) -> Certainty | None:
    """Return the certainty of a mention, None of one in the patient's history.

    *after* is the offset of the next mention, or the end of the sentence; *verdict* that of a list with the mention.
    """
    start = max((found.end() for found in triggers.TERMINATION.finditer(sentence, 0, mention.start())), default=0)
    # From the mention on: "no, but there is an effusion" must not end the negation at its own trigger.
    termination = triggers.POST_TERMINATION.search(sentence, mention.end())
    end = termination.start() if termination else len(sentence)
    scope = _Scope(sentence, mention, after, verdict, end, sentence[start:end], mention.start() - start)
    if _no_evidence(scope.clause, scope.here) or (not verdict and _is_listed(sentence, mention)):
        return "absent"
    history = _reaching(triggers.HISTORY, scope.clause, scope.here)
    if history and not triggers.HISTORY_END.search(scope.clause, history.end(), scope.here):
        return None
    return "uncertain" if _is_doubted_behind(scope) else _of_triggers(scope)


@dataclass(frozen=True, slots=True)
class _Scope:
    """A mention, the next one's offset, the verdict of its list, its clause to *end*, and its offset in the clause."""

    sentence: str
    mention: re.Match[str]
    after: int
    verdict: Verdict | None
    end: int
    clause: str
    here: int

    def follows(self, behind: re.Pattern[str], meaning: Certainty) -> bool:
        """Return whether a trigger after the mention applies to it, or the end of its list means the same."""
        if self.verdict in (None, "own"):
            end = min(self.end, self.after) if self.verdict else self.end
            return _follows(behind, self.sentence, self.mention.end(), self.after, end)
        return self.verdict == meaning


def _is_doubted_behind(scope: _Scope) -> bool:
    """Return whether words after a mention doubt it."""
    told = scope.sentence[: scope.end]
    doubt = triggers.POST_DOUBT.search(scope.sentence, scope.mention.end(), scope.end)
    return bool(
        (doubt and doubt.start() < scope.after and _applies(scope.sentence, scope.mention.end(), doubt, scope.after))
        or scope.sentence.rstrip().endswith("?")
        or (
            not triggers.PROCEDURE.search(scope.clause, 0, scope.here)
            and scope.follows(triggers.CONSIDERED, "uncertain")
        )
        or scope.follows(triggers.POST_UNCERTAINTY, "uncertain")
        or (scope.follows(triggers.NOT_ASSESSED, "uncertain") and resolution.is_not_assessed(told, scope.mention))
    )


def _of_triggers(scope: _Scope) -> Certainty:
    """Return the certainty that a doubt or denial before a mention gives it, or a denial after it."""
    clause, here, mention = scope.clause, scope.here, scope.mention
    doubt, denial = _reaching(triggers.UNCERTAINTY, clause, here), _reaching(triggers.NEGATION, clause, here)
    if doubt and denial and "," in clause[doubt.end() : max(denial.start(), doubt.end())]:
        # "Suspicious for pneumonia, no pneumothorax": the denial begins a part of its own.
        doubt = None
    if doubt and not (triggers.SUSPICION.fullmatch(doubt.group()) and scope.follows(triggers.POST_NEGATION, "absent")):
        return "uncertain"
    if denial and scope.verdict != "present":
        return _of_denial(scope, denial.group())
    told = scope.sentence[: min(scope.end, scope.after)]
    if _NOT.search(mention.group()):
        return "absent"
    return resolution.explained(told, mention) or _of_denial_behind(scope)


def _of_denial(scope: _Scope, denial: str) -> Certainty:
    """Return the certainty that a denial before a mention gives it."""
    if resolution.is_still_to_exclude(denial, scope.sentence[scope.mention.end() : scope.end]):
        return "uncertain"
    removed = triggers.REMOVAL.fullmatch(denial) is not None
    return "present" if removed and resolution.is_left(scope.sentence[: scope.after], scope.mention) else "absent"


def _of_denial_behind(scope: _Scope) -> Certainty:
    """Return the certainty of a mention that nothing before it denies or doubts."""
    sentence, mention = scope.sentence, scope.mention
    if resolution.is_left(sentence[: scope.after], mention):
        return "present"
    if scope.follows(triggers.POST_NEGATION, "absent") and not resolution.is_of_some(sentence, mention, scope.end):
        return "absent"
    return "uncertain" if _is_left_open(sentence, mention) else "present"


def _no_evidence(clause: str, here: int) -> bool:
    """Return whether a sign of the mention is denied: "no findings suspicious for pneumonia"."""
    trigger = _reaching(triggers.EVIDENCE, clause, here)
    return bool(trigger and _NO_EVIDENCE.search(clause, 0, trigger.start()))


def _is_listed(sentence: str, mention: re.Match[str]) -> bool:
    """Return whether a denial stands after the mention, or after a list that begins with it."""
    denial = triggers.LIST_NEGATION.search(sentence, mention.end())
    between = lexicon.MENTION.sub("", sentence[mention.end() : denial.start()]) if denial else ""
    return bool(denial and _ENUMERATED.fullmatch(between))


def _is_left_open(sentence: str, mention: re.Match[str]) -> bool:
    """Return whether the mention or another one is meant, or a box of a form beside it is empty.

    Also a sign of what is named next and doubted: "the costophrenic angle is blunted, which may be due to an effusion".
    """
    following = lexicon.MENTION.search(sentence, mention.end())
    earlier = [*lexicon.MENTION.finditer(sentence, 0, mention.start())]
    same = following and following.lastgroup == mention.lastgroup
    return bool(
        _EMPTY_BOX.search(sentence)
        or (following and same and _DOUBTFUL_CAUSE.fullmatch(sentence, mention.end(), following.start()))
        or (following and _ALTERNATIVE.fullmatch(sentence, mention.end(), following.start()))
        or (earlier and _ALTERNATIVE.fullmatch(sentence, earlier[-1].end(), mention.start()))
    )


def _follows(behind: re.Pattern[str], sentence: str, start: int, after: int, end: int) -> bool:
    """Return whether a trigger after a mention applies to it: before the next mention, or to a list of mentions.

    After a new clause it applies to that clause only, as does a singular verb after "and".
    """
    trigger = behind.search(sentence, start, end)
    if trigger is None:
        return False
    if trigger.start() < after:
        return _applies(sentence, start, trigger, after)
    last = [*lexicon.MENTION.finditer(sentence, after, trigger.start())][-1]
    next_one = lexicon.MENTION.search(sentence, trigger.end())
    ends = next_one.start() if next_one else len(sentence)
    if not resolution.STOPPED.search(trigger.group()) and not _applies(sentence, last.end(), trigger, ends):
        return False
    between = sentence[start : last.start()]
    to_the_last = _SINGULAR.match(trigger.group()) and re.search(r"\band\b", between)
    return not to_the_last and _is_list(between)


def _applies(sentence: str, start: int, trigger: re.Match[str], after: int) -> bool:
    """Return whether a trigger before the next mention has no other subject ("effusion, drain was removed").

    A participle right before the next mention belongs to that one: "effusion, healed rib fracture".
    """
    if _SUBJECT.search(f"{sentence[start : trigger.start()].rstrip()} "):
        return False
    joins = [*JOIN.finditer(sentence, start, trigger.start())]
    between = (joins[-1].end(), trigger.start()) if joins else (0, 0)
    if not any(words.fullmatch(sentence, *between) for words in (triggers.PLACE, triggers.CONTINUED)):
        return False
    place = _SIDE_AFTER.match(sentence, trigger.end(), after)
    words = sentence[between[0] : place.end() if place else between[1]]
    if joins and _names_another_side(sentence[: joins[-1].start()], words):
        return False
    names = _named(sentence[:start]) if resolution.STOPPED.search(trigger.group()) else ()
    if names and resolution.bleeds_from(sentence[: names[-1][0]]):
        return False
    bare = triggers.PARTICIPLE.match(trigger.group().strip())
    rest = sentence[trigger.end() : after]
    return not (bare and after < len(sentence) and _ATTRIBUTE_OF_NEXT.fullmatch(rest))


def _names_another_side(told: str, words: str) -> bool:
    """Return whether *words* name another side than the last in *told*: "right effusion, the left has gone"."""
    own, other = [*lexicon.SIDE.finditer(told)], lexicon.SIDE.search(words)
    return bool(own and other and own[-1].lastgroup != other.lastgroup)


def _reaching(before: re.Pattern[str], clause: str, here: int) -> re.Match[str] | None:
    """Return the trigger before offset *here* of a clause that reaches the mention there, or None.

    It reaches through a list ("no effusion, consolidation or nodule"), but no part with its own side or verb after a
    comma ("no effusion, left nodule"). A trigger in the words of another mention reaches none ("heart not enlarged").
    """
    found = [*before.finditer(clause, 0, here)]
    if found:
        found = [
            t for t in found if not any(a <= t.start() < b for a, b in _named(clause)) and not _is_value(clause, t)
        ]
    if not found:
        return None
    trigger = found[-1].end()
    if triggers.REMOVAL.fullmatch(found[-1].group()) and _is_beyond(clause, found[-1], here):
        return None
    apart = (new.start() for new in _NEW_PART.finditer(clause, trigger, here) if resolution.is_apart(new, trigger))
    part = max(apart, default=-1)
    joined = triggers.REMOVAL.fullmatch(found[-1].group()) and not triggers.VERB.search(clause, trigger)
    return found[-1] if part < 0 or joined or _continues(clause, trigger, part, here) else None


def _is_beyond(clause: str, removal: re.Match[str], here: int) -> bool:
    """Return whether the mention at *here* is not of what was removed: "removal of the drain, new pneumothorax"."""
    if triggers.NOT_REMOVED.search(clause, removal.end(), here):
        return True
    comma = clause.rfind(",", removal.end(), here)
    if comma < 0:
        return False
    listed = triggers.LIST_OF.match(removal.group()) and _LIST_END.search(clause, comma)
    return not listed or bool(triggers.AFTER_REMOVAL.match(clause) or lexicon.SIZE.search(clause, comma, here))


def _is_value(clause: str, trigger: re.Match[str]) -> bool:
    """Return whether "nil" is the value of the finding before it: "effusion nil nodule 4 mm"."""
    before = clause[: trigger.start()].rstrip(" :=-")
    return trigger.group() == "nil" and any(end == len(before) for _, end in _named(clause))


@lru_cache(maxsize=64)
def _named(clause: str) -> tuple[tuple[int, int], ...]:
    """Return the offsets of all mentions in a clause."""
    return tuple(mention.span() for mention in lexicon.MENTION.finditer(clause))


def _continues(clause: str, trigger: int, part: int, here: int) -> bool:
    """Return whether the last part before a mention, from *part* on, continues the list after a trigger."""
    own, rest = clause[part:here].lstrip(","), clause[part + 1 :].split(",", maxsplit=1)[0]
    if triggers.CLAUSE.match(own) or BESIDE.match(own) or triggers.ASSERTED.search(own):
        return False
    if _AND.match(own) and "," not in clause[trigger:part]:
        return False
    if _FRESH.match(own) and not _OR.search(clause, trigger):
        return False
    if _LIST_END.search(clause, trigger):
        return True
    attributes = lexicon.SIDE, lexicon.ZONE, lexicon.SIZE, triggers.PERSISTS
    return not any(own_words.search(rest) for own_words in attributes)


def _is_list(text: str) -> bool:
    """Return whether *text* holds only names joined by commas, "and" or "or"."""
    return not re.search(r"\b(?:is|are|was|were|has|have|shows?|seen)\b", text) and not _NEW_PART.search(text, 1)
