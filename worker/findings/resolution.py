"""The resolution of a finding, where a denial or doubt alone would be misread.

Removed with a remnant, explained by an artefact, expanded again, or gone in part; with a change or property of it that
is denied or cannot be assessed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker.findings import lexicon, triggers

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
    r"(?:(?P<again>re-?(?:expanded|aerated))|(?P<aerated>aerated)|expanded)"
    r"(?! (?:part|incompl|only|some|slight|a (?:little|bit)|mostly|largely|nearly|almost|to (?:some|a)\b))\b"
)
#: The subject is the lung. "The collapse has expanded" and "the pneumothorax has expanded" tell of growth.
_LUNG = re.compile(r"collapsed|atelectatic")
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
_SOME_OF = re.compile(
    rf"{_SOME} of (?:the|these|those) "
    rf"(?:(?!(?:and|or|with|but|while|whereas|although|though|as|after|since|because|which|that|{triggers.BE})\b)"
    r"[\w'-]+ )*$"
)
_SOME_GONE = re.compile(
    rf"{_SOME}(?: of (?:them|these|those|which))? (?:{triggers.BE} )+(?:\w+ly )?(?:{triggers.RESOLVED}|not|no longer)\b"
)
#: After "no change in the effusion": "or" and words that deny another finding, or may.
_OR_NEW = re.compile(
    r",? or(?= (?:(?P<new>new|newly|definite|convincing|obvious|further|additional|other|superimposed|interval|"
    r"suspicious|any|evidence|signs?|features)|acute|developing|recent|fresh)\s+"
    rf"(?!(?:of )?(?:\w+ )?{triggers.CHANGE}\b)\w)"
)
#: Right before "or new": both words are of one finding, "the old or new infarcts".
_STATE = re.compile(
    r"\b(?:old|older|known|chronic|prior|previous|existing|small|large|subacute|acute|new|recent|established|healed|"
    r"stable)$"
)
_PROPERTY = (
    r"(?:age|size|extent|volume|course|change|growth|progression|position|nature|cause|a?etiology|significance|stability|"
    r"chronicity|acuity|severity|depth|width|length|diameter|dimensions?|origin|malignancy|margins?|borders?|content|"
    r"number|density|composition|activity|displacement|alignment|tip|level|location|site|function|patency|degree|amount|"
    r"involvement|invasion|enhancement|morphology|configuration|evolution|development|relation(?:ship)?|character|"
    r"thickness|quantity|expansion|increase|decrease|resolution|healing|source|type|grade|stage|shape|contours?)s?"
)
#: Before a finding of which a property is told: "the size of the effusion cannot be assessed".
_PROPERTY_OF = re.compile(
    rf"(?<!presence and )(?<!presence or )\b{_PROPERTY}(?: (?:of|in|to)|,? (?:and|or) \w+ of) (?:(?:the|this|that|"
    r"these|those|an?|any) )?(?:(?!(?:an?|the|any)\b)[\w-]+ ){0,3}$"
)
#: Between a finding and its assessment: its place, and no other subject.
_ITS_PLACE = re.compile(
    r"\s*(?:(?:in|on|at|of|under|below|beneath|within|behind|near|over|along) (?:(?:the|this|an?|either|both) )?"
    r"(?:(?!(?:the|an?|and|or|but)\b)[\w-]+ ){1,4})?(?:(?:is|are|was|were|therefore|thus|also|still|again) )*"
)


def is_out(sentence: str, mention: re.Match[str]) -> bool:
    """Return whether a device was removed: "ETT out"."""
    return bool(_DEVICE.search(mention.group()) and _OUT.match(sentence, mention.end()))


def explained(sentence: str, mention: re.Match[str]) -> Certainty | None:
    """Return the certainty of a mention that *sentence*, to the end of its clause, explains by something else."""
    if is_out(sentence, mention) or _EXPLAINED.match(sentence, mention.end()) or _is_expanded(sentence, mention):
        return "absent"
    return "uncertain" if _INNOCENT.match(sentence, mention.end()) else None


def _is_expanded(sentence: str, mention: re.Match[str]) -> bool:
    """Return whether a lung that was collapsed, or beside a pneumothorax, has air again."""
    name, found = mention.group(), _EXPANDED.match(sentence, mention.end())
    if not found or not re.search(r"pneumothora|collaps|atelecta", name):
        return False
    return bool(found["again"] or _LUNG.search(name) or (found["aerated"] and "pneumothora" not in name))


def is_still_to_exclude(denial: str, rest: str) -> bool:
    """Return whether *denial* is an exclusion that the words after the finding demand or deny."""
    return bool(_EXCLUSION.fullmatch(denial) and _STILL_TO_DO.search(rest))


def is_left(sentence: str, mention: re.Match[str]) -> bool:
    """Return whether some of a finding that was removed is left: "haematoma evacuated, with a residual collection"."""
    return bool(_LEAVING.search(mention.group()) and _RESIDUAL.match(sentence, mention.end()))


def is_of_some(sentence: str, mention: re.Match[str], end: int) -> bool:
    """Return whether a denial after the mention is about some of several findings."""
    if _SOME_OF.search(sentence[: mention.start()]):
        return True
    gone = _SOME_GONE.search(sentence, mention.end(), end)
    return bool(gone and not triggers.POST_NEGATION.search(sentence, mention.end(), gone.start()))


def with_change_apart(sentence: str) -> str:
    """Return *sentence* with what "or" adds to "no change in the effusion" apart from it, so that offsets stay valid.

    "Or the nodule" is told of as well, "or new infarct" is denied, "or acute infarct" may be either.
    """
    unchanged = triggers.UNCHANGED.search(sentence)
    if not unchanged:
        return sentence
    words = _OR_NEW.sub(_apart, unchanged["rest"])
    if re.match(r" (?:in|of)\b", words):
        words = re.sub(r"^[^,;]*", lambda told: re.sub(r"\bor\b", ", ", told.group()), words)
    return sentence[: unchanged.start("rest")] + words + sentence[unchanged.end("rest") :]


def _apart(joined: re.Match[str]) -> str:
    """Return "or new" as words of the same length that deny or doubt what follows; not "the old or new infarcts"."""
    if _STATE.search(joined.string, 0, joined.start()):
        return joined.group()
    return f";{'no' if joined['new'] else 'if'}".rjust(len(joined.group()))


def is_not_assessed(sentence: str, mention: re.Match[str]) -> bool:
    """Return whether *sentence* says that the mention, and no property of it or other subject, cannot be assessed."""
    trigger = triggers.NOT_ASSESSED.search(sentence, mention.end())
    if not trigger or _PROPERTY_OF.search(sentence[: mention.start()]):
        return False
    last = [mention, *lexicon.MENTION.finditer(sentence, mention.end(), trigger.start())][-1]
    between = sentence[mention.end() : max(last.start(), mention.end())]
    joined = re.search(r"\b(?:and|or|nor)\b|/", between)
    if last is not mention and not joined and "," not in between:
        # "With the consolidation an effusion cannot be assessed": no list.
        return False
    if "," in between and not joined:
        detailed = lexicon.SIDE, lexicon.ZONE, lexicon.SIZE
        if any(words.search(sentence, 0, mention.start()) for words in detailed):
            return False
    return _ITS_PLACE.fullmatch(sentence, last.end(), trigger.start()) is not None


def bleeds_from(words: str) -> bool:
    """Return whether *words*, up to a mention, name a bleeding from it: "bleeding from the polyp"."""
    return _BLEEDING_FROM.search(words) is not None


def is_apart(new: re.Match[str], trigger: int) -> bool:
    """Return whether a finding stands before "and new": "no effusion and new nodule", not "no old and new nodules"."""
    before = re.split(r",|\bor\b", new.string[trigger : new.start()])[-1]
    return not new["own"] or lexicon.MENTION.search(before) is not None
