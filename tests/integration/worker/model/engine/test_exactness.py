"""Greedy answers do not depend on the rest of the batch, and no request reads the cache of another."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from worker.model.engine.engine import Engine
from worker.model.engine.request import Request
from worker.model.engine.transformers_runner import BatchedRunner

if TYPE_CHECKING:
    from tests.integration.worker.model.conftest import Parity
    from worker.model.engine.request import Generation
    from worker.model.resident_model import ResidentModel


@pytest.mark.parametrize("seed", range(3))
def test_answer_is_the_same_in_any_row_of_any_batch(resident: ResidentModel, parity: Parity, seed: int) -> None:
    chance = random.Random(seed)
    runner = BatchedRunner(resident.checkpoint.model, max_sequences=chance.randint(2, 5), max_tokens=640)
    # Small chunks, so that prompts are prefilled in several of them between decode steps.
    engine = Engine(runner, stop_tokens=frozenset(), detokenize=str, prefill_tokens=chance.randint(60, 200)).start()
    asked = []
    for case in chance.choices(parity.cases, k=10):
        request = Request(case["question"], [parity.image(case)], max_new_tokens=chance.randint(1, 48))
        asked.append(
            (case, request, engine.submit(request, resident.checkpoint.prompts.build(request.question, request.images)))
        )
        time.sleep(chance.random() * 0.1)
        if chance.random() < 0.2:
            chance.choice(asked)[2].cancel()

    for case, request, future in asked:
        assert future.cancelled() or future.result(60).token_ids == case["greedy_tokens"][: request.max_new_tokens]
    engine.close()


def test_prompts_with_and_without_images_share_a_batch(resident: ResidentModel) -> None:
    images = [np.full((60, 90, 3), shade, np.uint8) for shade in (0, 130)]
    requests = [Request("What is it?", images[:count], max_new_tokens=20) for count in (0, 1, 2)]

    alone = [resident.submit(request).result(60).token_ids for request in requests]
    together = [future.result(60).token_ids for future in [resident.submit(request) for request in requests]]

    assert together == alone


def test_log_probabilities_are_those_of_the_model_in_any_batch(resident: ResidentModel) -> None:
    image = np.full((60, 90, 3), 130, np.uint8)
    requests = [Request(f"What is it? {'again ' * count}", [image], max_new_tokens=20) for count in range(4)]

    together = [future.result(60) for future in [resident.submit(request) for request in requests]]

    for request, generation in zip(requests, together, strict=True):
        alone = resident.submit(request).result(60)
        assert len(generation.log_probs) == len(generation.token_ids)
        np.testing.assert_allclose(generation.log_probs, alone.log_probs, atol=1e-4)
        np.testing.assert_allclose(generation.log_probs, _teacher_forced(resident, request, generation), atol=1e-4)


@torch.inference_mode()
def _teacher_forced(resident: ResidentModel, request: Request, generation: Generation) -> list[float]:
    """Log-probability of each token of *generation*, by one forward of transformers over prompt and answer."""
    model, prompt = resident.checkpoint.model, resident.checkpoint.prompts.build(request.question, request.images)
    ids = torch.cat([prompt.input_ids, torch.tensor(generation.token_ids)])[None]
    logits = model(input_ids=ids, pixel_values=prompt.next_tiles(prompt.pending_tiles)).logits[0].float()
    start = len(prompt)
    logits[start - 1, list(resident.checkpoint.not_first)] = -torch.inf
    chosen = logits.log_softmax(-1)[start - 1 : -1].gather(1, ids[0, start:, None])
    return [float(value) for value in chosen[:, 0]]


@torch.inference_mode()
def test_cleared_row_does_not_reach_the_next_request(resident: ResidentModel, parity: Parity) -> None:
    case = parity.cases[0]
    prompt = resident.checkpoint.prompts.build(case["question"], [parity.image(case)])
    runner = BatchedRunner(resident.checkpoint.model, max_sequences=2, max_tokens=640)
    runner.encode_images([prompt], 1)
    for row in (0, 1):
        runner.prefill(row, prompt, 0, len(prompt))
    for layer in runner.cache.layers:
        # The worst content of a previous request: it would spread through any product.
        layer.keys.fill_(float("nan"))
        layer.values.fill_(float("inf"))
    for row in (0, 1):
        runner.clear_row(row)

    tokens = [runner.prefill(0, prompt, 0, len(prompt)).token]
    while len(tokens) < 12:
        tokens += [chosen.token for chosen in runner.decode(tokens[-1:], [len(prompt) + len(tokens) - 1])]

    assert tokens == case["greedy_tokens"][:12]


def test_finished_request_leaves_nothing_in_the_cache(resident: ResidentModel, parity: Parity) -> None:
    case = parity.cases[1]
    runner = BatchedRunner(resident.checkpoint.model, max_sequences=2, max_tokens=640)
    engine = Engine(runner, stop_tokens=frozenset(), detokenize=str)
    futures = [
        engine.submit(
            Request("", max_new_tokens=count), resident.checkpoint.prompts.build(case["question"], [parity.image(case)])
        )
        for count in (3, 9)
    ]

    while not all(future.done() for future in futures):
        engine.step()

    assert not any(torch.any(layer.keys) or torch.any(layer.values) for layer in runner.cache.layers)


@torch.inference_mode()
def test_tokens_beyond_the_sequence_are_not_attended_to(resident: ResidentModel, parity: Parity) -> None:
    case = parity.cases[0]
    prompt = resident.checkpoint.prompts.build(case["question"], [parity.image(case)])
    runner = BatchedRunner(resident.checkpoint.model, max_sequences=1, max_tokens=640)
    runner.encode_images([prompt], 1)
    runner.prefill(0, prompt, 0, len(prompt))
    for layer in runner.cache.layers:
        layer.keys[:, len(prompt) :].fill_(1e4)
        layer.values[:, len(prompt) :].fill_(1e4)

    tokens = [case["greedy_tokens"][0]]
    while len(tokens) < 12:
        tokens += [chosen.token for chosen in runner.decode(tokens[-1:], [len(prompt) + len(tokens) - 1])]

    assert tokens == case["greedy_tokens"][:12]
