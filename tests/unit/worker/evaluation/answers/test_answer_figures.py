"""Figures of answers, from inquiries with known answers to a fake model."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from db.answers.answer import CANNOT_TELL, NONE_OF_THESE, Answer, Diagnosis, OptionScore
from db.errors import ConfigurationError
from db.settings import Settings
from db.states import JobKind
from tests.unit.worker.fakes import FakeModel
from worker.evaluation.answers.answer_figures import Answered, Arbitration, auroc, figures_of, is_right
from worker.evaluation.answers.asked_cases import AskedCase, read_inquiries, write_inquiries
from worker.evaluation.answers.evaluate_answers import measure
from worker.evaluation.answers.meta_files import write_folder
from worker.pipeline.pipeline import Pipeline
from worker.retrieval.case_files import read_cases

if TYPE_CHECKING:
    from pathlib import Path

SHARED: dict[str, Any] = {"basis": "", "prompt_version": "2", "model_digest": "", "provenance": {}}


def told(text: str, confidence: float = 0.9) -> Answer:
    cannot_tell = text == CANNOT_TELL
    return Answer(text=text, model_text=text, confidence=confidence, cannot_tell=cannot_tell, **SHARED)


def chosen(label: str, confidence: float = 0.9) -> Diagnosis:
    options = [OptionScore(name, 0.5, chosen=name in label.split(", "), log_prob=-1.0) for name in ("a", "b")]
    return Diagnosis(
        text=label,
        model_text=label,
        confidence=confidence,
        options=options,
        none_of_these=0.1,
        cannot_tell=label == CANNOT_TELL,
        **SHARED,
    )


def question(right: str, kind: str) -> AskedCase:
    return AskedCase("1", [right], question="?", kind=kind)


CHOICE = AskedCase("1", ["a"], options=["a", "b"], kind="one")
REMOVED = AskedCase("1", [NONE_OF_THESE], options=["a", "b"], kind="removed")


def test_answers_to_what_is_not_there_are_right_if_denied_or_not_told() -> None:
    absent, unknown = question(CANNOT_TELL, "absent"), question(CANNOT_TELL, "unknown")
    figures = figures_of(
        [
            Answered(question("Left.", "side"), told("left")),
            Answered(question("Left.", "side"), told("Right.", 0.6)),
            Answered(absent, told(CANNOT_TELL, 0.3)),
            Answered(absent, told("Left.", 0.6)),
            Answered(unknown, told("No.")),
        ]
    )

    assert (figures.accuracy, figures.closed_accuracy, figures.told) == (0.6, 0.5, 0.8)
    assert figures.not_there == pytest.approx(2 / 3)
    assert figures.auroc == 1.0
    # Two of .9 that are right, two of .6 that are wrong.
    assert figures.ece == pytest.approx((2 * 0.1 + 2 * 0.6) / 4)
    assert figures.by_kind["side"] == (0.5, 2)


def test_choices_are_counted_with_their_arbitration() -> None:
    right, wrong, unsure = chosen("a"), chosen("b"), chosen(CANNOT_TELL)
    figures = figures_of(
        [
            Answered(CHOICE, right, Arbitration(right, right, right)),
            Answered(CHOICE, right, Arbitration(right, wrong, right)),
            Answered(CHOICE, wrong, Arbitration(wrong, wrong, right)),
            Answered(REMOVED, unsure),
            Answered(REMOVED, wrong),
        ]
    )

    assert (figures.upheld, figures.corrected) == (0.5, 1.0)
    assert figures.by_labels == {"no": pytest.approx(2 / 3), "wrong": pytest.approx(1 / 3), "right": 1.0}
    assert (figures.not_there, figures.outside) == (0.5, 0)
    assert figures.closed_accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("right", "several", "label", "expected"),
    [
        (["a", "b"], True, "a, b", True),
        (["a", "b"], True, "a", False),
        (["a"], True, "a, b", False),
        (["a", "b"], False, "a", True),
        (["a"], True, "none of these", False),
        ([NONE_OF_THESE], True, "none of these", True),
        ([NONE_OF_THESE], True, "a", False),
    ],
)
def test_several_options_are_right_only_if_all_of_them_are_chosen(
    *, right: list[str], several: bool, label: str, expected: bool
) -> None:
    inquiry = AskedCase("1", right, options=["a", "b"], several=several)

    assert is_right(inquiry, chosen(label)) is expected


def test_figures_without_answers_are_not_measured() -> None:
    figures = figures_of([])

    assert figures.as_json()["accuracy"] is None
    assert math.isnan(auroc([(0.9, True)]))
    assert [table.row_count for table in figures.tables()] == [10, 0]


def test_test_file_of_meddr_is_read_with_plain_images(tmp_path: Path) -> None:
    for number, mode in enumerate(("L", "RGB")):
        shade = np.add.outer(np.arange(101), np.arange(91))[..., None].repeat(3, axis=2).astype(np.uint8)
        Image.fromarray(shade).convert(mode).save(tmp_path / f"{number}.png")
    lines = [
        {
            "id": 0,
            "split": "test",
            "image": "0.png",
            "text": "Clear lungs.",
            "question_id": 0,
            "answer": "Clear lungs.",
        },
        {"image": "0.png", "question": "Is there a nodule?", "answer": "Yes", "question_id": 1},
        {"image": "1.png", "label": "tumor", "rad": ["tumor", "normal"], "moed": ["normal"]},
        {"image": "1.png", "label": "normal", "rad": [], "moed": []},
    ]
    (tmp_path / "x_meta.jsonl").write_text("\n".join(map(json.dumps, lines)))

    write_folder(tmp_path / "x_meta.jsonl", tmp_path / "out", modality="SM", body_part="")
    model = FakeModel("Yes.", scores={"Yes.": -0.1, "tumor": -0.1})
    pipeline = Pipeline(model, None, lambda _: {}, Settings())
    (asked,) = read_inquiries(tmp_path / "out", JobKind.QUESTION)
    choices = read_inquiries(tmp_path / "out", JobKind.DIAGNOSIS)
    answered, failed = measure(pipeline, tmp_path / "out", [asked, *choices])

    assert read_cases(tmp_path / "out")[0].report == "Clear lungs."
    assert [choice.options for choice in choices] == [["normal", "tumor"]] * 2
    assert failed == []
    assert [one.answer.why for one in answered] == ["", "", ""]
    assert [one.right for one in answered] == [True, True, False]
    prompts = [request.question for request in model.requests]
    assert "most similar cases are tumor,normal. The diagnoses of the specialist models are normal." in prompts[2]
    assert model.requests[0].images[0].shape == (101, 91, 3)


@pytest.mark.parametrize("line", ["{", '{"case_id": "1"}', '{"case_id": "1", "right": ["a"]}', '{"what": 1}'])
def test_invalid_inquiry_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    write_inquiries(tmp_path, [CHOICE])
    with (tmp_path / "inquiries.jsonl").open("a") as file:
        file.write(line)

    with pytest.raises(ConfigurationError, match="invalid line 2"):
        read_inquiries(tmp_path, JobKind.DIAGNOSIS)


def test_folder_without_inquiries_of_the_task_is_refused(tmp_path: Path) -> None:
    write_inquiries(tmp_path, [CHOICE])

    with pytest.raises(
        ConfigurationError, match="no question in inquiries.jsonl: expected lines with case_id, question"
    ):
        read_inquiries(tmp_path, JobKind.QUESTION)
