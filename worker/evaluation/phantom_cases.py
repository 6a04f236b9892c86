"""Evaluate a checkpoint on phantoms."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from worker.evaluation.evaluate import evaluate
from worker.phantoms.datasets import (
    REFERENCE_CASES,
    write_calibration_cases,
    write_demo_studies,
    write_reference_cases,
)
from worker.phantoms.phantoms import TRAINING

if TYPE_CHECKING:
    from db.settings import Settings
    from worker.evaluation.scoring import Result


def evaluate_phantoms(
    count: int,
    checkpoint: Path,
    settings: Settings,
    *,
    seed: int,
    retrieval: bool,
    controls: bool = False,
    out: Path | None = None,
    references: int = REFERENCE_CASES,
) -> Result:
    """Measure *checkpoint* on *count* phantoms with the variation of the training, with or without retrieval.

    For *controls* the phantoms are drawn as the reference cases, among which many have rare findings.
    """
    with tempfile.TemporaryDirectory() as folder:
        cases, earlier = Path(folder) / "cases", Path(folder) / "reference"
        write = write_calibration_cases if controls else write_demo_studies
        write(cases, count=count, seed=seed, variation=TRAINING)
        if retrieval:
            write_reference_cases(earlier, count=references, seed=seed, variation=TRAINING)
        reference = earlier if retrieval else None
        return evaluate(cases, checkpoint, settings, reference=reference, controls=controls, out=out)
