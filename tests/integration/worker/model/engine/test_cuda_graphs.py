"""Batches of fixed size, as CUDA graphs need them, on a CPU: recorded by calling instead."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from worker.model.engine import cuda_graphs
from worker.model.engine.cuda_graphs import FixedShapes
from worker.model.engine.engine import Engine
from worker.model.engine.request import Request
from worker.model.engine.runner import SlotRunner

if TYPE_CHECKING:
    import pytest
    import torch

    from tests.integration.worker.model.conftest import Parity
    from worker.model.resident_model import ResidentModel


class Counted(FixedShapes):
    """Remembers the shapes that a GPU would record."""

    def __init__(self, runner: SlotRunner) -> None:
        super().__init__(runner._step, runner._device, rows=runner.rows, tokens=runner.tokens)
        self.seen: set[tuple[int, int]] = set()

    def _run(self, inputs: torch.Tensor, width: int) -> torch.Tensor:
        self.seen.add((inputs.shape[1], width))
        return super()._run(inputs, width)


class Wrong(Counted):
    """As a recording that went astray would be."""

    def _run(self, inputs: torch.Tensor, width: int) -> torch.Tensor:
        return super()._run(inputs, width) + 1


class Unrecordable(Counted):
    """As where an operation cannot be captured."""

    def _run(self, inputs: torch.Tensor, width: int) -> torch.Tensor:  # noqa: ARG002 - fails for any
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


def test_filled_up_batches_give_the_same_answers_and_touch_no_other_row(
    resident: ResidentModel, parity: Parity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "NARROWEST", 64)
    chance = random.Random(0)
    runner = SlotRunner(resident._model, rows=5, tokens=640)
    shapes = Counted(runner)
    assert runner.use_if_equal(shapes)
    engine = Engine(runner, stop_tokens=frozenset(), detokenize=str, prefill_tokens=150)
    asked = []
    for case in chance.choices(parity.cases, k=8):
        prompt = resident._make_prompt(case["question"], [parity.image(case)])
        asked.append((case, engine.submit(Request("", max_new_tokens=chance.randint(2, 48)), prompt)))
        for _ in range(chance.randint(0, 6)):
            engine.step()

    while not all(future.done() for _, future in asked):
        engine.step()

    for case, future in asked:
        tokens = future.result().token_ids
        assert tokens == case["greedy_tokens"][: len(tokens)]
    assert {batch for batch, _ in shapes.seen} == {1, 2, 4, 5}
    assert {64, 640} <= {width for _, width in shapes.seen} <= {64, 512, 640}


def test_recordings_are_used_only_where_they_agree(resident: ResidentModel) -> None:
    runner = SlotRunner(resident._model, rows=2, tokens=64)

    assert runner.use_if_equal(Counted(runner))
    assert not runner.use_if_equal(Wrong(runner))


def test_where_nothing_can_be_recorded_plain_steps_go_on(resident: ResidentModel) -> None:
    runner = SlotRunner(resident._model, rows=2, tokens=64)

    assert not runner.use_if_equal(Unrecordable(runner))
    assert runner.decode([0], [0])
