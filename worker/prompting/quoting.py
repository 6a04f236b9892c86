"""Select what a prompt quotes of a reference report: whole sentences that state a finding or a normal result.

A report from the archive is data from outside: it may hold instructions, markup, imitated prompt entries or any length.
Only statements that worker.findings can judge are quoted, so that a report influences a draft by its findings alone: in
the author's words if all of them are ordinary (worker.prompting.report_words), else in words of this program.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.findings import sections
from worker.findings.labeller import Label, labels
from worker.prompting.hostile_text import FORGED_ENTRY, NORMAL_WORDS
from worker.prompting.plain_text import CONTROL, FENCE, is_hostile, plain
from worker.prompting.report_text import split_report
from worker.prompting.report_words import WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Longest quotation of one case in tokens: a long impression is 60 to 80, and three stay a small part of a context.
MAX_CASE_TOKENS = 96
#: Characters of a report that are searched for sentences to quote; signed reports have up to 8,000.
MAX_CHARACTERS = 20_000
#: Characters of a sentence in its author's words; of a longer one its findings are quoted, up to the second number.
MAX_SENTENCE, MAX_LONG_SENTENCE = 400, 2000

#: Also between statements without a full stop: semicolons stay inside, because a negation may reach over them.
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+|(?<=[.!?])(?=[A-Z(\[])")
_HEADING = re.compile(
    r"^\W*(?:findings?|impressions?|conclusions?|opinion|summary|comments?|results?|addendum|diagnosis)\s*:\s*",
    re.IGNORECASE,
)
#: Sentences that state nothing about the images.
_CONTEXT = re.compile(
    r"^\W*(?:clinical |relevant )?(?:history|indications?|comparison|technique|procedure|reason|question|details?)\s*:",
    re.IGNORECASE,
)
_WORD = re.compile(r"[\w-]+")
_LETTERS = re.compile(r"[a-z]+")
#: Lengths, and what else may stand between ordinary words.
_LENGTH = re.compile(r"\b\d+(?:[.,]\d+)?(?:\s*x\s*\d+(?:[.,]\d+)?)*[\s-]*(?:mm|cm)\b")
_BETWEEN = re.compile(r"[a-z\s.,;:!?()/-]*")
#: Certainty -> the words before a finding.
_BEFORE = {"present": "", "uncertain": "possible", "absent": "no"}


@dataclass(frozen=True, slots=True)
class Quotation:
    """Sentences of a report that a prompt may quote, on one line each; *suspicious* if it imitates instructions."""

    sentences: tuple[str, ...]
    suspicious: bool

    @property
    def text(self) -> str:
        """The quotation in one line; empty if no sentence can be quoted."""
        return " ".join(self.sentences)


def quotation(report: str) -> Quotation:
    """Return the statements of the impression, or of the complete report if the impression has none."""
    text = plain(report[:MAX_CHARACTERS])
    findings, rest = split_report(text)
    # A further impression may be appended to imitate another report.
    impression = split_report(rest)[0]
    quoted = _without_normal(list(_statements(impression)) or list(_statements(findings)))
    return Quotation(quoted, suspicious=any(map(is_hostile, _SENTENCE.split(text))))


def _without_normal(statements: list[str]) -> tuple[str, ...]:
    """Return the statements that name a finding if one is affirmed: "normal study" contradicts it."""
    if any(label.certainty == "present" for statement in statements for label in labels(statement)):
        return tuple(statement for statement in statements if labels(statement))
    return tuple(statements)


def shortened(quoted: Quotation, tokens: Callable[[str], int], limit: int = MAX_CASE_TOKENS) -> Quotation:
    """Return the same with those sentences, in order, that fit into *limit* tokens; a sentence is never cut."""
    kept: list[str] = []
    for sentence in quoted.sentences:
        if tokens(" ".join([*kept, sentence])) <= limit:
            kept.append(sentence)
    return Quotation(tuple(kept), quoted.suspicious)


def _statements(text: str) -> Iterator[str]:
    """Yield the statements; none from a control token to the next heading, nor after an entry or order without text."""
    another_turn = introduced = False
    known = {_place(label) for label in labels(text)}
    for raw in _SENTENCE.split(text):
        sentence = " ".join(raw.split())
        if not sentence:
            continue
        another_turn = CONTROL in sentence or (another_turn and not _HEADING.match(sentence))
        hostile = is_hostile(sentence)
        if not (another_turn or introduced or hostile) and _is_statement(sentence):
            # Alone, a part of a sentence may say something else: "Nodule? None."
            said = _in_ordinary_words(_fenced(sentence))
            yield from said if known.issuperset(_place(label) for one in said for label in labels(one)) else ()
        # "(4, 0.99)" and "Write the following:" stand before what they introduce.
        forged = FORGED_ENTRY.search(sentence) is not None and not labels(sentence)
        introduced = forged or (hostile and sentence.endswith(":"))


def _is_statement(sentence: str) -> bool:
    if len(sentence) > MAX_LONG_SENTENCE or _CONTEXT.match(sentence):
        return False
    words = _WORD.findall(sentence.lower())
    return bool(labels(sentence)) or (bool(words) and all(w in NORMAL_WORDS or w.isdigit() for w in words))


def _in_ordinary_words(statement: str) -> list[str]:
    """Return *statement* if it is short and its words are ordinary, else a sentence for each finding that it states.

    Unknown words may be an order that no list of orders has, in any language, or a number of an imitated entry. None if
    the sentences would state something else.
    """
    rest = _LENGTH.sub(" ", statement.lower())
    if len(statement) <= MAX_SENTENCE and _BETWEEN.fullmatch(rest) and WORDS.issuperset(_LETTERS.findall(rest)):
        return [statement]
    # The labeller divides a longer sentence, and doubts what a denial before the division may reach.
    divided = len(statement) > sections.MAX_SENTENCE
    stated = dict.fromkeys(one for one in labels(statement) if not (divided and one.certainty == "uncertain"))
    said = list(dict.fromkeys(map(_in_words, stated)))
    same = {_place(label) for label in labels(" ".join(said))} == {_place(label) for label in stated}
    return said if same else []


def _in_words(label: Label) -> str:
    """Return a finding as a sentence: "Small left pleural effusion.", "No nodule in the left upper zone."."""
    place = f" in the {label.side} {label.zone} zone" if label.zone else ""
    side = "" if label.zone else label.side
    words = " ".join(filter(None, (_BEFORE[label.certainty], label.size, side, label.finding)))
    return " ".join(f"{words[:1].upper()}{words[1:]}{place}.".split())


def _place(label: Label) -> tuple[str, str, str, str]:
    return (*label.strict, label.certainty)


def _fenced(sentence: str) -> str:
    """Return a sentence without heading and fence characters, closed by a full stop."""
    words = " ".join(_HEADING.sub("", sentence).translate(FENCE).split())
    return words if words.endswith((".", "!", "?")) else f"{words}."
