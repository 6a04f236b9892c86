"""Possible answers of a question."""

from __future__ import annotations

import pytest

from worker.pipeline.possible_answers import listed_in, possible_answers


@pytest.mark.parametrize(
    ("question", "listed"),
    [
        ("Which of these is present: nodule, mass or pleural effusion?", ["nodule", "mass", "pleural effusion"]),
        ("Which of: nodule, mass?", ["nodule", "mass"]),
        ("Which of nodule, mass, or effusion is present?", ["nodule", "mass", "effusion"]),
        ("Is there a nodule or a mass?", ["nodule", "mass"]),
        ("What do you see: nodule or mass", ["nodule", "mass"]),
        ("Is there a nodule?", []),
        ("Where is the nodule?", []),
        ("Is the heart enlarged, as before?", []),
        (f"Which of these: {', '.join('abcdefghijklmnop')}?", []),
    ],
)
def test_question_that_lists_things_offers_them(question: str, listed: list[str]) -> None:
    assert listed_in(question) == listed


def test_no_answer_is_offered_twice() -> None:
    answers = possible_answers("Which of these: nodule, yes?", "nodule")

    texts = [one.text for one in answers]
    assert texts == [
        "Yes.",
        "No.",
        "Left.",
        "Right.",
        "Both.",
        "Nodule.",
        "None of these.",
        "Cannot tell from these images.",
    ]
    assert answers[5].forms == ("Nodule.", "Nodule", "nodule", "nodule.")
    assert [one.kind for one in answers[4:7]] == ["side", "listed", "listed"]
