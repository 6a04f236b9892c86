"""The converted checkpoint against the results of the original code (sunanhe/MedDr) with the published one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from worker.model.engine.request import Request

if TYPE_CHECKING:
    from tests.integration.worker.model.conftest import Parity
    from worker.model.resident_model import ResidentModel

CASES = ("gray_mrg", "rgb_report", "rgb_vqa", "gray_dx")
#: Measured difference: 6.1e-5. A wrong pixel shuffle, a missing LoRA, a tied output layer or wrong pixel statistics
#: differ by 5 or more.
LOGIT_TOLERANCE = 1e-3


@pytest.mark.parametrize("name", CASES)
def test_prompt_tokens_are_those_of_the_original(resident: ResidentModel, parity: Parity, name: str) -> None:
    case = next(case for case in parity.cases if case["name"] == name)

    prompt = resident.checkpoint.prompts.build(case["question"], [parity.image(case)])

    assert prompt.input_ids.tolist() == parity.arrays[f"{name}/input_ids"].tolist()


@pytest.mark.parametrize("name", CASES)
def test_pixels_are_those_of_the_original(resident: ResidentModel, parity: Parity, name: str) -> None:
    case = next(case for case in parity.cases if case["name"] == name)
    expected = parity.arrays[f"{name}/pixel_values_sample"]

    pixels = resident.checkpoint.prompts.image_inputs(parity.image(case))["pixel_values"][0].numpy()

    step = pixels.shape[-1] // expected.shape[-1]
    assert np.array_equal(pixels[:, ::step, ::step], expected)
    assert pixels.mean() == pytest.approx(case["pixel_values_mean"], abs=1e-6)


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_logits_are_those_of_the_original(resident: ResidentModel, parity: Parity, name: str) -> None:
    case = next(case for case in parity.cases if case["name"] == name)
    expected = parity.arrays[f"{name}/logits_text"]
    prompt = resident.checkpoint.prompts.build(case["question"], [parity.image(case)])

    logits = (
        resident.checkpoint.model(input_ids=prompt.input_ids[None], pixel_values=prompt.pixel_values).logits[0].numpy()
    )

    assert np.abs(logits[-len(expected) :] - expected).max() <= LOGIT_TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_greedy_tokens_are_those_of_the_original(resident: ResidentModel, parity: Parity, name: str) -> None:
    case = next(case for case in parity.cases if case["name"] == name)

    answer = resident.submit(Request(case["question"], [parity.image(case)], max_new_tokens=48)).result()

    assert answer.token_ids == case["greedy_tokens"]


def test_tokenizer_encodes_and_decodes_as_the_original(resident: ResidentModel, parity: Parity) -> None:
    tokenizer = resident.checkpoint.tokenizer
    for case in json.loads((parity.directory / "tokenizer_cases.json").read_text()):
        ids = tokenizer(case["text"], add_special_tokens=False)["input_ids"]

        assert ids == case["ids"], case["text"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == case["decoded"]
