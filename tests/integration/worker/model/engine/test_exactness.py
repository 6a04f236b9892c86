"""Greedy answers do not depend on who else is running, and nobody sees what another left behind."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from worker.model.engine.engine import Engine
from worker.model.engine.request import Request
from worker.model.engine.runner import SlotRunner

if TYPE_CHECKING:
    from tests.integration.worker.model.conftest import Parity
    from worker.model.resident_model import ResidentModel


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_is_the_same_at_any_place_in_any_batch(resident: ResidentModel, parity: Parity, seed: int) -> None:
    chance = random.Random(seed)
    runner = SlotRunner(resident._model, rows=chance.randint(2, 5), tokens=640)
    # Small pieces, so that prompts are read in several of them between the others' decode steps.
    engine = Engine(runner, stop_tokens=frozenset(), detokenize=str, prefill_tokens=chance.randint(60, 200)).start()
    asked = []
    for case in chance.choices(parity.cases, k=10):
        request = Request(case["question"], [parity.image(case)], max_new_tokens=chance.randint(1, 48))
        asked.append((case, request, engine.submit(request, resident._make_prompt(request.question, request.images))))
        time.sleep(chance.random() * 0.1)
        if chance.random() < 0.2:
            chance.choice(asked)[2].cancel()

    for case, request, future in asked:
        assert future.cancelled() or future.result(60).token_ids == case["greedy_tokens"][: request.max_new_tokens]
    engine.close()


def test_a_prompt_without_images_is_answered_beside_one_with_several(resident: ResidentModel) -> None:
    images = [np.full((60, 90, 3), shade, np.uint8) for shade in (0, 130)]
    requests = [Request("What is it?", images[:count], max_new_tokens=20) for count in (0, 1, 2)]

    alone = [resident.submit(request).result(60).token_ids for request in requests]
    together = [future.result(60).token_ids for future in [resident.submit(request) for request in requests]]

    assert together == alone


@torch.inference_mode()
def test_what_one_request_left_in_the_cache_does_not_reach_the_next(resident: ResidentModel, parity: Parity) -> None:
    case = parity.cases[0]
    prompt = resident._make_prompt(case["question"], [parity.image(case)])
    runner = SlotRunner(resident._model, rows=2, tokens=640)
    runner.see([prompt], 1)
    for row in (0, 1):
        runner.prefill(row, prompt, 0, len(prompt))
    for layer in runner._cache.layers:
        # The other patient's tokens, at their most contagious.
        layer.keys.fill_(float("nan"))
        layer.values.fill_(float("inf"))
    for row in (0, 1):
        runner.wipe(row)

    tokens = [runner.prefill(0, prompt, 0, len(prompt))]
    while len(tokens) < 12:
        tokens += runner.decode(tokens[-1:], [len(prompt) + len(tokens) - 1])

    assert tokens == case["greedy_tokens"][:12]


def test_a_finished_request_leaves_no_trace_in_the_cache(resident: ResidentModel, parity: Parity) -> None:
    case = parity.cases[1]
    runner = SlotRunner(resident._model, rows=2, tokens=640)
    engine = Engine(runner, stop_tokens=frozenset(), detokenize=str)
    futures = [
        engine.submit(Request("", max_new_tokens=count), resident._make_prompt(case["question"], [parity.image(case)]))
        for count in (3, 9)
    ]

    while not all(future.done() for future in futures):
        engine.step()

    assert not any(torch.any(layer.keys) or torch.any(layer.values) for layer in runner._cache.layers)


@torch.inference_mode()
def test_stale_tokens_beyond_a_request_are_not_looked_at(resident: ResidentModel, parity: Parity) -> None:
    case = parity.cases[0]
    prompt = resident._make_prompt(case["question"], [parity.image(case)])
    runner = SlotRunner(resident._model, rows=1, tokens=640)
    runner.see([prompt], 1)
    runner.prefill(0, prompt, 0, len(prompt))
    for layer in runner._cache.layers:
        layer.keys[:, len(prompt) :].fill_(1e4)
        layer.values[:, len(prompt) :].fill_(1e4)

    tokens = [case["greedy_tokens"][0]]
    while len(tokens) < 12:
        tokens += runner.decode(tokens[-1:], [len(prompt) + len(tokens) - 1])

    assert tokens == case["greedy_tokens"][:12]
