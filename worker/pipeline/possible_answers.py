"""Possible answers of a question, by which the model's own answer is compared with the others it could have given."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from worker.prompting.wording import CANNOT_TELL, NONE_OF_THESE

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Kinds of answers, calibrated apart: yes or no, a side, one of the things that a question lists, any other text.
AnswerKind = Literal["yes_no", "side", "listed", "free"]
KINDS: tuple[AnswerKind, ...] = ("yes_no", "side", "listed", "free")

YES, NO = "Yes.", "No."
SIDES = ("Left.", "Right.", "Both.")
#: Things that a question lists: more are no list of a question, and their tokens would fill the context.
MAX_LISTED = 12

#: "Which of these is present: a, b or c?", "Which of a, b, c is present?", "Is there a, b or c?"
_LIST = (
    re.compile(r":\s*(?P<list>[^:?]*,[^:?]*|[^:?]*\bor\b[^:?]*)\??\s*$", re.IGNORECASE),
    re.compile(r"\b(?:which|what) of (?:the )?(?P<list>[^:?]+?) (?:is|are|do|does|can)\b", re.IGNORECASE),
    re.compile(
        r"^(?:.*\b)?(?:is|are|there|see|show|shows|have|has|it|this)\s+(?P<list>[^:?]*?\bor\b[^:?]*)\??\s*$",
        re.IGNORECASE,
    ),
)
_BETWEEN = re.compile(r"\s*,\s*(?:or\s+|and\s+)?|\s+or\s+", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:an?|the|any|on the|in the)\s+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Possible:
    """A possible answer and the forms in which a model may write it; their probabilities are added."""

    text: str
    kind: AnswerKind

    @property
    def forms(self) -> tuple[str, ...]:
        """With and without a full stop, capitalized and not; a text of the model's own as it is."""
        if self.kind == "free" and self.text != CANNOT_TELL:
            return (self.text,)
        plain = self.text.rstrip(".")
        forms = (self.text, plain, f"{plain}.", plain[:1].lower() + plain[1:], f"{plain[:1].lower()}{plain[1:]}.")
        return tuple(dict.fromkeys(forms))


def possible_answers(question: str, written: str) -> list[Possible]:
    """Return the answers to compare: yes, no, sides, what *question* lists, CANNOT_TELL, and the *written* text."""
    listed = [f"{one[:1].upper()}{one[1:]}." for one in listed_in(question)]
    none = [f"{NONE_OF_THESE.capitalize()}."] if listed else []
    own = [written.strip()] if written.strip() else []
    of_kinds: tuple[tuple[AnswerKind, Sequence[str]], ...] = (
        ("yes_no", (YES, NO)),
        ("side", SIDES),
        ("listed", [*listed, *none]),
        ("free", [CANNOT_TELL, *own]),
    )
    found: dict[str, Possible] = {}
    for kind, texts in of_kinds:
        for text in texts:
            found.setdefault(text.rstrip(".").casefold(), Possible(text, kind))
    return list(found.values())


def listed_in(question: str) -> list[str]:
    """Return what a question lists to choose from, without articles; empty if it lists nothing."""
    found = next((match for pattern in _LIST if (match := pattern.search(question))), None)
    if found is None:
        return []
    parts = [_ARTICLE.sub("", part.strip()) for part in _BETWEEN.split(found["list"])]
    listed = list(dict.fromkeys(filter(None, parts)))
    return listed if 1 < len(listed) <= MAX_LISTED else []


def is_same(text: str, other: str) -> bool:
    """Return whether two answers differ at most in case and full stop."""
    return text.strip().rstrip(".").casefold() == other.strip().rstrip(".").casefold()


def forms_of(answers: Sequence[Possible]) -> list[str]:
    """Return all forms, in order."""
    return [form for answer in answers for form in answer.forms]
