"""A case -> the report a reader would dictate: six styles of wording, order and denial, each structure mentioned once.

The style is fixed by the first sentence, so that the rest is certain: where every sentence chose its own words, the
words of a finding would share their probability and a model that takes the likeliest word would tend to deny it.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING

from worker.phantoms.cases import UNCLASSIFIED, Finding
from worker.phantoms.wordings import ORDERS, PHRASES, PLURAL, STRUCTURES, VIEW, WITHOUT_ARTICLE, Structure

if TYPE_CHECKING:
    import numpy as np

    from worker.phantoms.cases import Case

#: Three wordings, each once sentence by sentence and once in another order, with denials joined.
WORDINGS = 3
STYLES = 2 * WORDINGS


_POSITIVE = ("There is {article}{phrase}.", "{Phrase} is seen.", "{Phrase}.")
_NORMAL = ("No acute abnormality.", "Normal study.", "No abnormality.")
#: What is said of an image that is none: of every kind alike.
NOT_DIAGNOSTIC = "Findings: The image is not diagnostic. Impression: Not diagnostic."


def write(case: Case, rng: np.random.Generator) -> str:
    """The report of *case*, in a style *rng* chooses."""
    return report(case, int(rng.integers(STYLES)))


def report(case: Case, style: int) -> str:
    """The report of *case* in one of the STYLES."""
    findings = case.findings + ((Finding(UNCLASSIFIED),) if case.odd else ())
    structures = STRUCTURES[case.image]
    second, wording = divmod(style, WORDINGS)
    order = _order(case.image, wording + second)
    present = [finding for name in order for finding in _of(structures[name], findings)]
    said: list[str] = []
    for name in order:
        here = _of(structures[name], findings)
        said += [_sentence(finding, wording) for finding in here] or [structures[name].clear[wording]]
    told = " ".join([VIEW[case.image][style], *(_joined(said) if second else said)])
    impression = " ".join(_capital(phrase(finding, wording)) + "." for finding in present) or _NORMAL[wording]
    return f"Findings: {told} Impression: {impression}"


def _order(image: str, number: int) -> tuple[str, ...]:
    """The structures as they are told: in the order given, or the last first."""
    given = tuple(STRUCTURES[image])
    orders = ORDERS.get(image, (given, (given[-1], *given[:-1])))
    return orders[number % len(orders)]


_DENIED = re.compile(r"(?P<before>There (?:is|are) no |No )(?P<what>(?!.*\bor\b).+?)(?P<after> (?:is|are) seen)?\.")


def _joined(sentences: list[str]) -> list[str]:
    """With neighbouring denials of one form made one: "No effusion, infarct or mass."."""
    told: list[str] = []
    for form, group in groupby(sentences, _form):
        alike = list(group)
        if not form or len(alike) == 1:
            told += alike
            continue
        *first, last = [str(match["what"]) for sentence in alike if (match := _DENIED.fullmatch(sentence))]
        told.append(f"{form[0]}{', '.join(first)} or {last}{form[1]}.")
    return told


def _form(sentence: str) -> tuple[str, str] | None:
    """What stands before and after the name of what is denied; None where it cannot be joined."""
    match = _DENIED.fullmatch(sentence)
    return (match["before"], match["after"] or "") if match else None


def phrase(finding: Finding, wording: int = 0) -> str:
    """The noun phrase of a finding."""
    text = PHRASES[finding.name][wording].format(side=finding.side, zone=finding.zone, size=finding.size)
    return " ".join(text.split())


def _of(structure: Structure, findings: tuple[Finding, ...]) -> list[Finding]:
    return [finding for name in structure.findings for finding in findings if finding.name == name]


def _sentence(finding: Finding, wording: int) -> str:
    words = phrase(finding, wording)
    plural = finding.name in PLURAL or words == "enlarged ventricles"
    article = "" if plural or finding.name in WITHOUT_ARTICLE else ("an " if words[0] in "aeiou" else "a ")
    sentence = _POSITIVE[wording].format(article=article, phrase=words, Phrase=_capital(words))
    return sentence.replace(" is ", " are ") if plural else sentence


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]
