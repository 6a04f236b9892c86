"""Pairs for fine-tuning say what the images show, also if labels are wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from db.settings import Settings
from deploy.demo.demo import CHECKPOINT
from worker.evaluation.bootstrap.bootstrap_figures import SEED, measure, with_error
from worker.evaluation.evaluate import pipeline_with
from worker.model.resident_model import ResidentModel
from worker.phantoms.cases import CATALOGUE, draw_case

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_few_pairs_are_lost_and_none_has_a_wrong_label(tmp_path: Path) -> None:
    """The short form of `python -m worker.evaluation.bootstrap.bootstrap_figures`."""
    settings = Settings()
    model = ResidentModel.load(CHECKPOINT, device="cpu", dtype=settings.model.dtype)
    try:
        pipeline = pipeline_with(model, settings, None, tmp_path)
        figures = measure(pipeline, tmp_path, studies=40, seed=SEED, wrong=0.1, form="internvl")
    finally:
        model.close()

    assert figures["planted"] >= 2
    assert figures["carried"] == 0
    assert figures["strict_precision"] >= 0.98
    # Studies with a wrong label are no loss.
    assert figures["pairs"] >= 0.85 * (40 - figures["planted"])


@pytest.mark.parametrize("image", CATALOGUE)
def test_a_planted_error_changes_the_labels(image: str) -> None:
    rng = np.random.default_rng(5)

    for findings in (draw_case(rng, image).findings for _ in range(50)):
        wrong = with_error(findings, image, rng)
        assert {(f.name, f.side, f.zone) for f in wrong} != {(f.name, f.side, f.zone) for f in findings}
        assert len({f.name for f in wrong}) == len(wrong)
