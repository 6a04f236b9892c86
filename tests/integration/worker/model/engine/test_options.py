"""Scores of options and answers are those of transformers, in any row of any batch."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from worker.model.engine.engine import Engine
from worker.model.engine.request import Request
from worker.model.engine.transformers_runner import BatchedRunner, SingleRunner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from tests.integration.worker.model.conftest import Parity
    from worker.model.engine.request import Generation, OptionScore
    from worker.model.resident_model import ResidentModel

OPTIONS = ["pleural effusion", "pleural effusion on the left", "normal", "Yes.", "none of these", "n"]


@torch.inference_mode()
def transformers_values(resident: ResidentModel, request: Request, option: OptionScore) -> list[float]:
    """Log-probabilities of the tokens and the end of *option*, by one forward over prompt and option."""
    checkpoint = resident.checkpoint
    prompt = checkpoint.prompts.build(request.question, request.images)
    ids = torch.cat([prompt.input_ids, torch.tensor(option.token_ids)])[None]
    images = {"pixel_values": prompt.next_tiles(prompt.pending_tiles)} if request.images else {}
    logits = checkpoint.model(input_ids=ids, **images).logits[0].float()
    start = len(prompt)
    logits[start - 1, list(checkpoint.not_first)] = -torch.inf
    chosen = logits.log_softmax(-1)[start - 1 :]
    values = chosen[:-1].gather(1, ids[0, start:, None])[:, 0].tolist()
    return [*values, float(chosen[-1, sorted(checkpoint.stop_tokens)].logsumexp(-1))]


def assert_as_transformers(resident: ResidentModel, request: Request, generation: Generation) -> None:
    assert [option.text for option in generation.options] == list(request.scored)
    for option in generation.options:
        values = [*option.log_probs, option.end_log_prob]
        np.testing.assert_allclose(values, transformers_values(resident, request, option), atol=2e-4)


def test_options_and_reports_share_a_batch_and_give_what_each_gives_alone(
    resident: ResidentModel, parity: Parity
) -> None:
    chance = random.Random(0)
    prompts = resident.checkpoint.prompts
    runner = BatchedRunner(resident.checkpoint.model, max_sequences=3, max_tokens=640)
    engine = Engine(
        runner, stop_tokens=resident.checkpoint.stop_tokens, detokenize=str, prefill_tokens=chance.randint(60, 200)
    ).start()
    asked: list[tuple[Any, Request, Future[Generation]]] = []
    for number, case in enumerate(chance.choices(parity.cases, k=9)):
        kinds = [
            {"max_new_tokens": 1 + 4 * number},
            {"options": OPTIONS[: 1 + number % 6]},
            {"answer": OPTIONS[number % 6]},
        ]
        request = Request(case["question"], [parity.image(case)], **kinds[number % 3])
        prompt = prompts.build(request.question, request.images)
        prompt.options = [prompts.answer_ids(text) for text in request.scored]
        asked.append((case, request, engine.submit(request, prompt)))
        time.sleep(chance.random() * 0.05)
        if chance.random() < 0.2:
            chance.choice(asked)[2].cancel()

    for case, request, future in asked:
        if not future.cancelled() and request.scored:
            assert_as_transformers(resident, request, future.result(60))
        elif not future.cancelled():
            tokens = future.result(60).token_ids
            assert tokens == case["greedy_tokens"][: len(tokens)]
    engine.close()
    assert not any(torch.any(layer.keys) or torch.any(layer.values) for layer in runner.cache.layers)


def test_written_answer_gets_the_log_probabilities_that_it_was_written_with(resident: ResidentModel) -> None:
    image = np.full((60, 90, 3), 130, np.uint8)
    prompts = resident.checkpoint.prompts
    written = resident.submit(Request("What is it?", [image], max_new_tokens=12)).result(60)
    prompt = prompts.build("What is it?", [image])
    prompt.options = [written.token_ids]

    forced = resident.engine.submit(Request("What is it?", [image], answer=written.text), prompt).result(60)

    np.testing.assert_allclose(forced.options[0].log_probs, written.log_probs, atol=2e-4)


def test_runner_of_one_row_scores_as_the_batched_one(resident: ResidentModel) -> None:
    checkpoint = resident.checkpoint
    prompt = checkpoint.prompts.build("What is it?", [np.full((60, 90, 3), 130, np.uint8)])
    options = [checkpoint.prompts.answer_ids(text) for text in OPTIONS]
    limits: dict[str, Any] = {"max_tokens": 640, "not_first": checkpoint.not_first}

    scores = [
        _scores(runner, prompt, options)
        for runner in (
            SingleRunner(checkpoint.model, **limits),
            BatchedRunner(checkpoint.model, max_sequences=2, **limits),
        )
    ]

    for one, other in zip(*scores, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def _scores(runner: SingleRunner | BatchedRunner, prompt: Any, options: Sequence[Sequence[int]]) -> list[list[float]]:
    prompt.features.clear()
    runner.encode_images([prompt], prompt.pending_tiles)
    runner.prefill(0, prompt, 0, len(prompt))
    return runner.score(0, prompt, options, frozenset({2, 7}))


def test_options_are_tokenized_as_they_follow_a_prompt(resident: ResidentModel) -> None:
    checkpoint = resident.checkpoint
    for text in OPTIONS:
        ids = checkpoint.prompts.answer_ids(text)
        assert checkpoint.tokenizer.decode(ids) == text
    with_tokens = checkpoint.prompts.answer_ids("normal<|im_end|><IMG_CONTEXT>")
    assert with_tokens == checkpoint.prompts.answer_ids("normal")


@pytest.mark.parametrize("request_", [Request("Q", options=["<|im_end|>", "a"]), Request("Q", options=["a " * 1200])])
def test_options_without_tokens_or_too_long_fail_alone(resident: ResidentModel, request_: Request) -> None:
    with pytest.raises(Exception, match=r"invalid_question|prompt_too_long"):
        resident.submit(request_).result(10)
