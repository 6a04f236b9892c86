"""Padded batches, as CUDA graphs need them, on a CPU: plain steps instead of graphs."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from worker.model.engine import cuda_graphs
from worker.model.engine.cuda_graphs import PaddedDecoder
from worker.model.engine.engine import Engine
from worker.model.engine.request import Request
from worker.model.engine.transformers_runner import BatchedRunner

if TYPE_CHECKING:
    import pytest
    import torch

    from tests.integration.worker.model.conftest import Parity
    from worker.model.resident_model import ResidentModel


class CountingDecoder(PaddedDecoder):
    """Records the shapes that a GPU would capture."""

    def __init__(self, runner: BatchedRunner) -> None:
        super().__init__(runner)
        self.shapes: set[tuple[int, int]] = set()

    def run(self, inputs: torch.Tensor, width: int) -> torch.Tensor:
        self.shapes.add((inputs.shape[1], width))
        return super().run(inputs, width)


class WrongDecoder(CountingDecoder):
    """Gives other tokens than plain steps."""

    def run(self, inputs: torch.Tensor, width: int) -> torch.Tensor:
        return super().run(inputs, width) + 1


class FailingDecoder(CountingDecoder):
    """Fails as if an operation cannot be captured."""

    def run(self, inputs: torch.Tensor, width: int) -> torch.Tensor:  # noqa: ARG002 - fails for any
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


def test_padded_batches_give_the_same_answers_and_touch_no_other_row(
    resident: ResidentModel, parity: Parity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "MIN_WIDTH", 64)
    chance = random.Random(0)
    runner = BatchedRunner(resident.checkpoint.model, max_sequences=5, max_tokens=640)
    decoder = CountingDecoder(runner)
    assert runner.use_if_equal(decoder)
    engine = Engine(runner, stop_tokens=frozenset(), detokenize=str, prefill_tokens=150)
    asked = []
    for case in chance.choices(parity.cases, k=8):
        prompt = resident.checkpoint.prompts.build(case["question"], [parity.image(case)])
        asked.append((case, engine.submit(Request("", max_new_tokens=chance.randint(2, 48)), prompt)))
        for _ in range(chance.randint(0, 6)):
            engine.step()

    while not all(future.done() for _, future in asked):
        engine.step()

    for case, future in asked:
        tokens = future.result().token_ids
        assert tokens == case["greedy_tokens"][: len(tokens)]
    assert {batch for batch, _ in decoder.shapes} == {1, 2, 4, 5}
    assert {64, 640} <= {width for _, width in decoder.shapes} <= {64, 512, 640}


def test_padded_decoder_is_used_only_if_its_tokens_agree(resident: ResidentModel) -> None:
    runner = BatchedRunner(resident.checkpoint.model, max_sequences=2, max_tokens=64)

    assert runner.use_if_equal(CountingDecoder(runner))
    assert not runner.use_if_equal(WrongDecoder(runner))


def test_plain_steps_are_used_if_capture_fails(resident: ResidentModel) -> None:
    runner = BatchedRunner(resident.checkpoint.model, max_sequences=2, max_tokens=64)

    assert not runner.use_if_equal(FailingDecoder(runner))
    assert runner.decode([0], [0])
