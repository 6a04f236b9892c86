"""The words given to the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from db.errors import ConfigurationError
from worker.prompting import wording
from worker.prompting.diagnosis import Choice, Guidance, diagnosis_prompt
from worker.prompting.question import question_prompt
from worker.prompting.report import QuotedCase, report_prompt

MEDDR_REPORT = (
    "You are a helpful medical assistant. Your task is report generation. You are given a chest x-ray image"
    " and you are required to generate a summary report about the image."
)
#: Prompts of all versions, one JSON object a line; version 1 if it names none.
PROMPTS = Path(__file__).with_name("prompts.jsonl").read_text(encoding="utf-8").splitlines()
CASES = [
    QuotedCase("Findings: Opacity.\nImpression: Left effusion.", 0.912),
    QuotedCase("No pleural effusion is seen.", 0.5),
    QuotedCase("Clear\n lungs.", -0.25),
]


def prompt_of(row: dict[str, Any]) -> str:
    version = row.get("version", "1")
    if row["kind"] == "diagnosis":
        choice = Choice(row.get("options", ["normal", "tumor"]), several=row.get("several", False))
        guidance = Guidance(row["labels"], row.get("specialists", []))
        return diagnosis_prompt(row["modality"], row["body_part"], choice, guidance, version=version)
    if row["kind"] == "question":
        return question_prompt(row["modality"], row.get("question", " Is there a mass? "))
    return report_prompt(row["modality"], row["body_part"], CASES[: row["cases"]], version=version)


@pytest.mark.parametrize("line", PROMPTS)
def test_prompts_of_each_version_are_unchanged(line: str) -> None:
    row = json.loads(line)

    assert prompt_of(row) == row["prompt"], "a change of words is a new version, for checkpoints trained on it"


def test_unknown_version_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigurationError, match=r"'7'.*this release has 1, 2: use a release"):
        wording.version_of("7")


def test_chest_radiographs_of_any_detector_get_the_prompt_meddr_was_trained_on() -> None:
    assert {report_prompt(modality, "CHEST", version="2") for modality in ("CR", "DX", "RG")} == {MEDDR_REPORT}


def test_other_images_are_called_by_their_own_name() -> None:
    assert "You are given a head CT image." in report_prompt("CT", "HEAD", version="2")
    assert "You are given a retinography image." in report_prompt("OP", "EYE", version="2")
    assert "You are given a medical image." in report_prompt("OT", "", version="2")
