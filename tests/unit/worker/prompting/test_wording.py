"""The words given to the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from worker.prompting import wording
from worker.prompting.report import QuotedCase, report_prompt

MEDDR_REPORT = (
    "You are a helpful medical assistant. Your task is report generation. You are given a chest x-ray image"
    " and you are required to generate a summary report about the image."
)
#: Prompts of version 1, one JSON object a line.
PROMPTS = Path(__file__).with_name("prompts.jsonl").read_text(encoding="utf-8").splitlines()
CASES = [
    QuotedCase("Findings: Opacity.\nImpression: Left effusion.", 0.912),
    QuotedCase("effusion " * 200, 0.5),
    QuotedCase("Clear\n lungs.", -0.25),
]


def prompt_of(row: dict[str, Any]) -> str:
    if row["kind"] == "diagnosis":
        return wording.diagnosis(row["modality"], row["body_part"], ["normal", "tumor"], row["labels"])
    if row["kind"] == "question":
        return wording.question(row["modality"], " Is there a mass? ")
    return report_prompt(row["modality"], row["body_part"], CASES[: row["cases"]])


@pytest.mark.parametrize("line", PROMPTS)
def test_prompts_of_version_1_are_unchanged(line: str) -> None:
    row = json.loads(line)

    assert wording.VERSION == "1", "a new version needs new prompts in prompts.jsonl and a checkpoint trained on them"
    assert prompt_of(row) == row["prompt"]


def test_chest_radiographs_of_any_detector_get_the_prompt_meddr_was_trained_on() -> None:
    assert {report_prompt(modality, "CHEST") for modality in ("CR", "DX", "RG")} == {MEDDR_REPORT}


def test_other_images_are_called_by_their_own_name() -> None:
    assert "You are given a head CT image." in report_prompt("CT", "HEAD")
    assert "You are given a retinography image." in report_prompt("OP", "EYE")
    assert "You are given a medical image." in report_prompt("OT", "")


def test_diagnosis_lists_its_options_and_the_labels_of_similar_cases() -> None:
    prompt = wording.diagnosis("SM", "", ["normal", "tumor"], ["tumor", "tumor"])

    assert "The possible diagnoses are: 'normal', 'tumor'. The diagnoses of the most similar cases are tumor" in prompt
    assert prompt.endswith("The response should only contain one option.")
