"""Forms of questions: which of them a short answer settles, and the findings that question and answer state together.

A model reads the finding of a question and misses the words around it: in an inverted, compound or qualified question
its yes, no or side is about another question. Rules of words, without the model; a form that is not recognized states
no finding.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker.findings import lexicon
from worker.findings.labeller import Label, labels, named
from worker.findings.spelling import plain
from worker.pipeline.form_words import (
    ALTERNATIVE,
    ANOTHER,
    APOSTROPHES,
    CHOICE_OF_ANSWERS,
    COMPARED,
    CONJUNCTION,
    ENGLISH,
    MEASURED,
    NEGATED,
    NO_SIDE_MEANT,
    OF_IMAGE,
    OTHER_LANGUAGES,
    OTHER_TIME,
    QUALIFIED,
    UNAFFECTED,
    WITHOUT_SIDE,
    WORDS_OF_PRESENCE,
)
from worker.pipeline.possible_answers import NO, YES, is_same, listed_in

if TYPE_CHECKING:
    from worker.findings.certainty import Certainty

NEGATED_QUESTION = "The question is negated or inverted: ask whether the finding is present."
SEVERAL_AT_ONCE = "The question asks about several findings, sides or alternatives: ask about one at a time."
NOT_PRESENCE = (
    "The question asks about size, number or change, which cannot be checked with this answer: ask whether the finding"
    " is present."
)
NOT_ENGLISH = "The question cannot be read as English, and its answer cannot be checked: ask in English."
ANOTHER_TIME = "The question is about another time, of which the model has no image: ask about these images."
NOT_MEASURED = "The question asks for a measurement: nothing is measured in the images."
IMAGE_SIDE = "The question names a side of the image: ask for the patient's side."
UNCLEAR_SIDE = "Left or right may mean something else than a side in this question: ask on which side the finding is."
NO_SIDE = "The finding has no side: ask whether it is present."
NOT_READ = (
    "The question holds words that cannot be read and may change its meaning: ask only which side the finding is on, or"
    " which of some findings is present."
)
REPEATED = "The answer repeats words of the question: ask whether the finding is present."
#: Limitations of an answer that states no finding of the lexicon.
NOT_CHECKED = "The answer was not checked against the images: no finding could be read from question and answer."
WORDS_NOT_READ = (
    "The question holds words beside the finding that cannot be read: the answer may be about the presence of the"
    " finding only."
)

#: Reasons by the words around the findings; the first counts.
_BY_WORDS = ((OTHER_TIME, ANOTHER_TIME), (COMPARED, NOT_PRESENCE), (MEASURED, NOT_MEASURED))
#: Sides that an answer names.
SIDES_OF = {"left": ("left",), "right": ("right",), "both": ("left", "right")}
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*|\d+")
#: Words of a question without an English one that can still be a name alone, such as "pleural effusion".
MAX_NAME_WORDS = 2


def unsettled(question: str, text: str) -> str:
    """Return why *text* does not settle *question*, in words for the reader; empty if it can."""
    asked = _normal(question)
    return _unclear_meaning(question, asked, text) or _unclear_answer(question, asked, text)


def _unclear_meaning(question: str, asked: str, text: str) -> str:
    """Return why the question can have another meaning than a model reads in it."""
    if NEGATED.search(asked) or _asks_for_the_unaffected(asked, text):
        return NEGATED_QUESTION
    if not _is_free(question, text) and not _is_english(asked):
        return NOT_ENGLISH
    if OF_IMAGE.search(asked):
        return IMAGE_SIDE
    if NO_SIDE_MEANT.search(asked):
        return UNCLEAR_SIDE
    return SEVERAL_AT_ONCE if _is_short(text) and _is_compound(asked, text) else ""


def _unclear_answer(question: str, asked: str, text: str) -> str:
    """Return why an answer of this form cannot be one to the question."""
    words = _without_findings(asked)
    if _is_yes_or_no(text) and QUALIFIED.search(words):
        return NOT_PRESENCE
    if reason := next((reason for pattern, reason in _BY_WORDS if pattern.search(words)), ""):
        return reason
    if any(label.side and label.finding in WITHOUT_SIDE for label in asked_by(question, text)):
        return NO_SIDE
    if _is_free(question, text):
        echo = _word(text) in question.lower() and set(named(text)) == set(named(question))
        return REPEATED if labels(text) and echo else ""
    return "" if _is_yes_or_no(text) or _is_plain(question, asked) else NOT_READ


def _asks_for_the_unaffected(asked: str, text: str) -> bool:
    """Return whether the question asks for what is well, beside a finding or for a choice."""
    chosen = not _is_yes_or_no(text) or bool(named(asked))
    return chosen and UNAFFECTED.search(asked.partition(":")[0]) is not None


def stated_by(question: str, text: str) -> list[Label]:
    """Return the findings that *text* states as the answer to *question*, with their certainty.

    None of a question that *text* does not settle, or with words around the finding that can change its meaning.
    """
    if unsettled(question, text):
        return []
    if _is_free(question, text):
        return labels(text)
    return asked_by(question, text) if _is_plain(question, _normal(question)) else []


def unchecked(question: str, text: str) -> str:
    """Return the limitation of an answer that states no finding; empty if it states one."""
    if stated_by(question, text):
        return ""
    return WORDS_NOT_READ if _is_short(text) and named(question) else NOT_CHECKED


def asked_by(question: str, text: str) -> list[Label]:
    """Return the findings of *question* as a short answer affirms or denies them; those of any other *text* itself."""
    if _is_side(text):
        return [Label(name, side) for name in named(question) for side in SIDES_OF[_word(text)]]
    if not _is_yes_or_no(text):
        return labels(text)
    certainty: Certainty = "present" if is_same(text, YES) else "absent"
    return [Label(one.finding, one.side, certainty=certainty) for one in labels(question)]


def _word(text: str) -> str:
    return text.strip().rstrip(".").lower()


def _is_yes_or_no(text: str) -> bool:
    return is_same(text, YES) or is_same(text, NO)


def _is_side(text: str) -> bool:
    return _word(text) in SIDES_OF


def _is_short(text: str) -> bool:
    return _is_yes_or_no(text) or _is_side(text)


def _is_listed(question: str, text: str) -> bool:
    return any(is_same(text, one) for one in listed_in(question))


def _is_free(question: str, text: str) -> bool:
    return not (_is_short(text) or _is_listed(question, text))


def _normal(question: str) -> str:
    """Return the question in lower case with full words, without "yes or no" and "or not"."""
    return CHOICE_OF_ANSWERS.sub(" ", plain(question.translate(APOSTROPHES)).text)


def _without_findings(asked: str) -> str:
    return lexicon.MENTION.sub(" ", asked)


def _is_compound(asked: str, text: str) -> bool:
    """Return whether a question has several parts, of which a short answer leaves open which one it answers."""
    places = {(one.finding, one.side) for one in labels(asked)}
    questions = [part for part in asked.split("?")[:-1] if _WORD.search(part)]
    if len(questions) > 1 or len(named(asked)) > 1 or CONJUNCTION.search(_question_of(asked)):
        return True
    several = ALTERNATIVE.search(_question_of(asked)) or ANOTHER.search(_question_of(asked))
    return _is_yes_or_no(text) and (len(places) > 1 or several is not None)


def _question_of(asked: str) -> str:
    """Return the sentence with the question mark, without statements before it; all of a text without one."""
    return re.split(r"[.!]\s", asked)[-1] if asked.rstrip().endswith("?") else asked


def _is_english(asked: str) -> bool:
    words = _WORD.findall(_without_findings(asked))
    english = sum(word in ENGLISH for word in words)
    other = sum(word in OTHER_LANGUAGES or not word.isascii() for word in words)
    return other <= english and (english > 0 or len(words) <= MAX_NAME_WORDS)


def _is_plain(question: str, words: str) -> bool:
    """Return whether the *words* around the findings ask for presence or side and for nothing else."""
    for one in listed_in(question):
        words = words.replace(one.lower(), " ")
    return all(word in WORDS_OF_PRESENCE for word in _WORD.findall(_without_findings(words)))
