"""Write the report of a case, in six styles of wording, order and negation; each structure is mentioned once.

The first sentence determines the style. If each sentence had a different style, the probability of a finding would be
split among its wordings, and greedy decoding would tend to negate it.
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

#: Three wordings, each in two orders; in the second, adjacent negations are joined.
WORDINGS = 3
STYLES = 2 * WORDINGS

_POSITIVE = ("There is {article}{phrase}.", "{Phrase} is seen.", "{Phrase}.")
_NORMAL = ("No acute abnormality.", "Normal study.", "No abnormality.")
#: Report of an image that is not of the named type.
NOT_DIAGNOSTIC = "Findings: The image is not diagnostic. Impression: Not diagnostic."


def write(case: Case, rng: np.random.Generator) -> str:
    """Return the report of *case* in a random style."""
    return report(case, int(rng.integers(STYLES)))


def report(case: Case, style: int) -> str:
    """Return the report of *case* in one of the STYLES."""
    findings = case.findings + ((Finding(UNCLASSIFIED),) if case.distractor else ())
    structures = STRUCTURES[case.image]
    second, wording = divmod(style, WORDINGS)
    order = _order(case.image, wording + second)
    present = [finding for name in order for finding in _of(structures[name], findings)]
    sentences: list[str] = []
    for name in order:
        here = _of(structures[name], findings)
        sentences += [_sentence(finding, wording) for finding in here] or [structures[name].clear[wording]]
    body = " ".join([VIEW[case.image][style], *(_joined(sentences) if second else sentences)])
    impression = " ".join(_capital(phrase(finding, wording)) + "." for finding in present) or _NORMAL[wording]
    return f"Findings: {body} Impression: {impression}"


def _order(image: str, number: int) -> tuple[str, ...]:
    """Return the structures in one of the orders of an image type, by default as listed or the last first."""
    given = tuple(STRUCTURES[image])
    orders = ORDERS.get(image, (given, (given[-1], *given[:-1])))
    return orders[number % len(orders)]


_NEGATION = re.compile(r"(?P<before>There (?:is|are) no |No )(?P<what>(?!.*\bor\b).+?)(?P<after> (?:is|are) seen)?\.")


def _joined(sentences: list[str]) -> list[str]:
    """Join adjacent negations of one form: "No effusion, infarct or mass."."""
    joined: list[str] = []
    for form, group in groupby(sentences, _form):
        alike = list(group)
        if not form or len(alike) == 1:
            joined += alike
            continue
        *first, last = [str(match["what"]) for sentence in alike if (match := _NEGATION.fullmatch(sentence))]
        joined.append(f"{form[0]}{', '.join(first)} or {last}{form[1]}.")
    return joined


def _form(sentence: str) -> tuple[str, str] | None:
    """Return the words before and after the negated finding; None if the sentence is not a simple negation."""
    match = _NEGATION.fullmatch(sentence)
    return (match["before"], match["after"] or "") if match else None


def phrase(finding: Finding, wording: int = 0) -> str:
    """Return the noun phrase of a finding."""
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
