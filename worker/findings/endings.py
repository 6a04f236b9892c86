"""Words at the end of a list that deny, doubt or affirm it: "are not seen", ": none", "cannot be excluded"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from worker.findings import triggers

if TYPE_CHECKING:
    from collections.abc import Iterator

Polarity = Literal["present", "uncertain", "absent"]
#: How far an ending reaches: "all of which are absent", ": none", "are not seen", "is not seen", "not seen", "removed".
Kind = Literal["all", "label", "bracket", "plural", "singular", "bare", "change"]

#: After words that end a statement: its end, or a place or time.
_STOP = r"(?=\s*(?:[.,;|)\]]|$))"
_TAIL = r"(?=\s*(?:[.,;|)\]]|$|(?:today|now|here|currently|both|either|bilateral(?:ly)?|on|in|at|throughout)\b))"
#: After "none": "none on the left" denies the finding on that side only.
_NO_SIDE = r"\b(?! (?:(?:on|in|at) )?(?:the )?(?:left|right))"
_SIZE_OR_SIDE = r"left|right|both|bilateral|small|tiny|trace|minimal|mild|moderate|large"
#: Not "not seen to enhance" and "not previously seen", which deny a property and another time.
_NOT_SEEN = (
    rf"(?:(?:not|cannot|never|neither|\w+n't)(?: be| been| have been)*(?: (?!previously|formerly|recently|newly)\w+ly)?"
    rf") {triggers.SEEN}{triggers.NOT_TO}|{triggers.NO_LONGER}{triggers.NOT_TO}|absent|excluded|ruled out|"
    rf"unlikely(?!{triggers.CAUSING}\b)"
)
_DENIED = (
    rf"(?:none{_NO_SIDE}|nil|absent|negative|neg|unlikely){_TAIL}|none (?:is |are |was |were )?{triggers.SEEN}\b"
    rf"{_NO_SIDE}|"
    r"(?:0|n|no|false|without|(?:no|without) (?:evidence|signs?)(?: of (?:any|this|these|it))?|"
    rf"nothing(?: to suggest| seen)?){_STOP}|[-\u2013](?=\s*\))|"
    rf"(?!absent|unlikely)(?:{_NOT_SEEN}|{triggers.RESOLVED})\b"
)
#: A value that says of which the finding is denied or suspected, but not that it is: "fracture: none acute".
_DOUBTED = (
    r"(?:can(?:not|'t) be|not|difficult to be|to be) (?:\w+ly )?(?:excluded|ruled out|confirmed|assess(?:ed|able)|"
    r"evaluat(?:ed|able)|determined)\b|(?:possibl[ey]|probabl[ey]|likely|equivocal|uncertain|unclear|questionable|"
    rf"suspected|indeterminate|unknown|n/?a)(?:{_STOP}|(?= (?:{_SIZE_OR_SIDE})\b))|"
    rf"\?(?:{_STOP}|(?=\s*(?:{_SIZE_OR_SIDE})\b))|(?:none|nil|absent|negative)\b"
)
#: In brackets only a value affirms: "no effusion (seen previously) or nodule" does not.
_AFFIRMED = (
    rf"(?:present|seen|noted|found)\b(?:{_STOP}|(?<!\(present)(?<!\(seen)(?<!\(noted)(?<!\(found)"
    rf"(?! {triggers.EARLIER})|"
    r"(?= (?:today|now|bilaterally|(?:on|in|at) (?:the )?(?:left|right|both))\b))|"
    rf"(?:yes|true)\b|positive\b|pos\b|(?:y|\+){_STOP}"
)
#: Between a label and its value, as in a table.
_LABELS = r"(?:\s*[:=|(]|\s[\u2013\u2014-](?=\s))\s*"
_VERB = r"\b(?:(?P<singular>is|was|has|isn't|wasn't|hasn't)|(?:are|were|have|aren't|weren't|haven't|can|could))\b"
#: Words between a verb and its participle: "are all felt to be absent".
_MODIFIER = r"(?: (?!(?:no|not|never|an?|the|there)\b)\w+){0,3}?"
_UNSURE = (
    r"(?:not (?:been |yet |be )*(?:\w+ly )?(?:excluded|ruled out)|(?:possible|probable|likely|suspected|questionable|"
    r"equivocal|uncertain|doubtful|indeterminate|in question|an? (?:possibility|consideration)))\b"
)
_CANNOT = r"\b(?:can(?:not|'t| not)|could(?: not|n't)) be(?: \w+ly)? "

_FORMS = re.compile(
    rf"(?P<all>,?\s*\b{triggers.NONE_OF}|"
    rf",? (?:all|both|each) of which\b(?: \w+){{0,3}}? (?:{_NOT_SEEN}|{triggers.RESOLVED})\b|"
    rf"{_LABELS}(?:all|both|each)\b(?: \w+){{0,2}}? (?:none|nil|neg(?:ative)?|{_NOT_SEEN}|{triggers.RESOLVED})\b)|"
    rf"{_LABELS}(?:(?P<denied>{_DENIED})|(?P<doubted>{_DOUBTED})|(?P<affirmed>{_AFFIRMED}))|"
    rf"(?P<none>,?\s+\b(?:none{_NO_SIDE}|nil|negative){_TAIL})|"
    # "Effusion:" without a value, and "effusion -", which may be a sign or a dash.
    r"(?P<empty>\s*[:=](?=\s*(?:[,;|]|$))|\s[\u2013-](?=\s*(?:[,;.]|$)))|"
    rf"(?P<cannot>{_CANNOT})(?:(?P<excluded>excluded|ruled out)|{triggers.SEEN})\b|"
    rf"(?P<verb>{_VERB}){_MODIFIER} (?:(?P<unsure>{_UNSURE})|{_NOT_SEEN}|{triggers.RESOLVED}\b)|"
    r",? (?P<open>not (?:yet |been |be )*(?:\w+ly )?(?:excluded|ruled out))\b|"
    rf",? (?:now |all |both )?(?:(?P<change>{triggers.RESOLVED})|{_NOT_SEEN})\b{_TAIL}"
)


@dataclass(frozen=True, slots=True)
class Ending:
    """The words from ``start`` to ``end`` that end a list, how far they reach, and the certainty of what they reach."""

    start: int
    end: int
    kind: Kind
    polarity: Polarity


def of(sentence: str) -> Iterator[Ending]:
    """Yield the words of a sentence in plain words that end a list, in order."""
    for form in _FORMS.finditer(sentence):
        yield Ending(*form.span(), _kind(form), _polarity(form))


def _kind(form: re.Match[str]) -> Kind:
    if form["all"]:
        return "all"
    if any(form[name] for name in ("denied", "doubted", "affirmed", "none", "empty")):
        return "bracket" if form.group().lstrip().startswith("(") else "label"
    if form["singular"]:
        return "singular"
    if form["verb"] or form["cannot"]:
        return "plural"
    return "change" if form["change"] else "bare"


def _polarity(form: re.Match[str]) -> Polarity:
    if form["affirmed"]:
        return "present"
    return "uncertain" if any(form[name] for name in ("doubted", "empty", "unsure", "excluded", "open")) else "absent"
