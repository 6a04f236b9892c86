"""Questions about phantoms: answers follow from the case, and nothing that is absent or unknown is affirmed."""

from __future__ import annotations

import re
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import pytest

from worker.phantoms import question_words
from worker.phantoms.cases import CATALOGUE, Case, Finding, draw_case
from worker.phantoms.question_words import Frames
from worker.phantoms.questions import NO, YES, Asker, Question, ask
from worker.prompting.wording import CANNOT_TELL
from worker.training import vocabulary
from worker.training.architecture import build_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CASE = Case("chest", 1, (Finding("nodule", "left", "upper"), Finding("pleural effusion", "right", size="small")))
FRAMES = {name: each for name, each in vars(question_words).items() if isinstance(each, Frames)}


def asked(case: Case, count: int = 600, *, held_out: bool = False) -> list[Question]:
    rng = np.random.default_rng(3)
    return [ask(case, rng, held_out=held_out) for _ in range(count)]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(vocabulary.texts("2"))


def unknown_bytes(text: str) -> list[str]:
    """Return the letters of *text* that are tokens of their own, because their word is unknown."""
    return [token for token in tokenizer().tokenize(text) if len(token) == 1 and token.isalpha() and token.islower()]


@pytest.mark.parametrize("held_out", [False, True])
def test_answers_follow_from_the_case(held_out: bool) -> None:
    questions = asked(CASE, held_out=held_out)

    by_kind = {kind: {q.answer for q in questions if q.kind == kind} for kind in {q.kind for q in questions}}
    assert by_kind["side"] == {"Left.", "Right."}
    assert by_kind["place"] <= {"Left upper zone.", "Upper zone.", "Right."}
    assert by_kind["size"] == {"Small."}
    assert by_kind["presence"] == {YES, NO}
    assert by_kind["absent"] == by_kind["unknown"] == {CANNOT_TELL}
    assert by_kind["open"] == {"Nodule, pleural effusion."}
    for question in questions:
        if question.kind == "side":
            assert question.answer == ("Left." if "nodule" in question.text.lower() else "Right.")


def test_side_in_a_question_about_presence_must_be_right() -> None:
    rng = np.random.default_rng(1)
    answers = {Asker(rng).present(CASE) for _ in range(400)}

    wrong = [q for q in answers if "right" in q.text and "nodule" in q.text and "pleural" not in q.text]
    assert wrong
    assert {q.answer for q in wrong} == {NO}


def test_rare_finding_is_denied_only_if_the_image_shows_none() -> None:
    rng = np.random.default_rng(1)
    normal, unlabelled = Case("chest", 1), Case("chest", 1, distractor=True)

    for case, expected in ((normal, NO), (unlabelled, CANNOT_TELL)):
        rare = [q for q in (Asker(rng).present(case) for _ in range(300)) if "free air" in q.text.lower()]
        assert {q.answer for q in rare} == {expected}


def test_wordings_held_out_are_not_trained_but_made_of_known_words() -> None:
    for name, frames in FRAMES.items():
        assert not set(frames.trained) & set(frames.held_out), name
    values = dict.fromkeys(("noun", "a", "A", "plural", "part", "side", "other", "one", "two"), "nodule")
    values |= dict.fromkeys(("be", "list", "list_or"), "are") | {"Be": "Are", "Side": "Left", "article": ""}
    subjects = ("ORGANS", "ABOUT_ORGAN", "NONSENSE", "IRRELEVANT")
    texts = [each.held_out for name, each in FRAMES.items() if name not in subjects]
    assert not [text for text in chain(*texts) if unknown_bytes(text.format(**values)) not in ([], ["a"])]


def test_random_words_do_not_change_what_a_question_asks_for() -> None:
    common = set(question_words.COMMON.split())
    for cue in chain(*question_words.CUES.values()):
        assert set(cue.split()) - common, cue
    cues = {word for cue in chain(*question_words.CUES.values()) for word in cue.split()} - common
    assert all(cues & set(re.findall("[a-z]+", q.text.lower())) for q in asked(CASE) if q.kind in {"side", "place"})


def test_questions_of_the_training_have_random_words_and_held_out_ones_have_not() -> None:
    frames = {kind: len(FRAMES[kind].trained) for kind in ("SIDE", "PRESENT")}
    texts = {
        held_out: {Asker(np.random.default_rng(n), held_out).side(CASE) for n in range(300)} for held_out in (0, 1)
    }
    assert len(texts[True]) < 60 < 3 * frames["SIDE"] < len(texts[False])


def test_subjects_that_no_image_shows_are_unknown_words() -> None:
    for word in chain(*question_words.NONSENSE):
        assert not {f"Ġ{part}" for part in word.split()} <= set(tokenizer().get_vocab()), word
    assert len(unknown_bytes("Is there a dinosaur?")) >= len("dinosaur")


def test_questions_about_every_type_of_image_can_be_asked() -> None:
    rng = np.random.default_rng(2)
    for image in CATALOGUE:
        kinds = {ask(draw_case(rng, image), rng, held_out=bool(n % 2)).kind for n in range(200)}
        assert {"presence", "which", "normal", "open", "image", "unknown", "count"} <= kinds
