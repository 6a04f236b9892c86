"""Training: a few steps make a stock checkpoint that a worker loads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from deploy.demo.train import Scale, train
from worker import prompts
from worker.model.resident import Request, ResidentModel

if TYPE_CHECKING:
    from pathlib import Path

TINY = Scale(chests=240, others=24, references=60, tower_steps=3, language_steps=3)


@pytest.mark.slow
def test_a_few_steps_make_a_checkpoint_that_a_worker_serves(tmp_path: Path) -> None:
    train(tmp_path, seed=1, scale=TINY)

    model = ResidentModel.load(tmp_path, device="cpu")
    try:
        picture = np.zeros((200, 160, 3), np.uint8)
        asked = Request(prompts.report("DX", "CHEST"), [picture], max_new_tokens=5)
        answer = model.submit(asked).result(timeout=60)
    finally:
        model.close()
    assert answer.token_ids
    assert json.loads((tmp_path / "prelim.json").read_text())["demo"] is True
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 8_000_000
