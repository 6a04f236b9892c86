"""Examples of questions and diagnoses: the answer follows the image, whatever the guidance says."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from worker.phantoms.cases import Case, Finding
from worker.prompting.wording import CANNOT_TELL, NONE_OF_THESE
from worker.training.reference_set import ReferenceSet
from worker.training.task_examples import MAX_LABELS, TaskExamples, TaskMix
from worker.training.training_cases import Sample

CASE = Case("skin", 1, (Finding("erythema"),))
SAMPLE = Sample("skin", CASE, (0,))


def examples(**mix: float) -> TaskExamples:
    """Draw examples with reference cases that all have the sample's finding."""
    vectors = np.ones((MAX_LABELS, 1), np.float32)
    sets = {"skin": ReferenceSet([CASE] * MAX_LABELS, vectors, {0: vectors[0]})}
    none: dict[str, Any] = {"nearest": 0, "all_wrong": 0, "all_right": 0, "specialists": 0, "several": 0}
    return TaskExamples(sets, np.random.default_rng(1), "2", TaskMix(**{**none, **mix}))


def labels(prompt: str) -> set[str]:
    found = re.search(r"most similar cases are ([^.]*)\.", prompt)
    return set(found[1].split(",")) if found else set()


def test_wrong_guidance_does_not_change_the_answer() -> None:
    task = examples(all_wrong=1)
    for example in (task.diagnosis(0, SAMPLE) for _ in range(60)):
        assert labels(example.question)
        assert "erythema" not in labels(example.question)
        assert example.answer == ("erythema" if "'erythema'" in example.question else NONE_OF_THESE)


def test_guidance_of_the_nearest_cases_is_theirs() -> None:
    task = examples(nearest=1, one_wrong=0)

    assert {frozenset(labels(task.diagnosis(0, SAMPLE).question)) for _ in range(20)} == {frozenset({"erythema"})}


def test_without_guidance_a_prompt_names_no_other_diagnoses() -> None:
    example = examples().diagnosis(0, SAMPLE)

    assert "The diagnoses of" not in example.question


def test_images_that_do_not_show_the_case_answer_nothing() -> None:
    task = examples()

    answers = {task.unanswerable(Sample("negative", None, (1,)), "skin", CASE).answer for _ in range(20)}
    assert answers == {CANNOT_TELL, NONE_OF_THESE}
