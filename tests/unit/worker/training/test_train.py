"""Training: a few steps make a stock checkpoint that a worker loads, a few minutes one that reads chests correctly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from worker.evaluation.checkpoint_evaluator import CheckpointEvaluator, Size
from worker.evaluation.phantom_figures import reading
from worker.model.engine.request import Request
from worker.model.resident_model import ResidentModel
from worker.phantoms.phantoms import CAREFUL
from worker.prompting.report import report_prompt
from worker.training.demo_model import DemoModel
from worker.training.train import SMOKE, Scale, train

if TYPE_CHECKING:
    from pathlib import Path

TINY = Scale(chests=240, others=24, references=60, vision_steps=3, language_steps=3)


@pytest.mark.slow
def test_a_few_steps_make_a_checkpoint_that_can_be_served(tmp_path: Path) -> None:
    train(tmp_path, seed=1, scale=TINY)

    model = ResidentModel.load(tmp_path, device="cpu")
    try:
        image = np.zeros((200, 160, 3), np.uint8)
        request = Request(report_prompt("DX", "CHEST", version="2"), [image], max_new_tokens=5)
        answer = model.submit(request).result(timeout=60)
    finally:
        model.close()
    assert answer.token_ids
    assert json.loads((tmp_path / "prelim.json").read_text())["demo"] is True
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 8_000_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_smoke_run_reads_fresh_chests(tmp_path: Path) -> None:
    train(tmp_path, seed=1, scale=SMOKE)

    evaluator = CheckpointEvaluator(DemoModel.load(tmp_path), Size(chests=150, references=240))
    chests = reading(evaluator, CAREFUL, ["chest"])["chest"]
    assert chests["strict_f1"] >= 0.85
    assert chests["hallucinated"] <= 0.1
