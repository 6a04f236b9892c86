"""Studies reported again with the cases of other studies, and without their images."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from db.settings import Settings
from tests.unit.worker.fakes import FakeIndex, FakeModel
from tests.unit.worker.test_pipeline import radiograph
from worker.evaluation.controls.reported_again import Controls
from worker.pipeline.pipeline import Pipeline, StudyToReport
from worker.retrieval.label_regression import LabelScores

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from worker.model.engine.request import Generation, Request

EFFUSION, NODULE = "Left pleural effusion.", "Right nodule."
SWAP = "swap test: of these shown as fact"
WRITTEN = "of these written without the images"
COPY = "copy index: of these as probable as with them"


class Copying(FakeModel):
    """Writes what its prompt quotes."""

    def submit(self, request: Request) -> Future[Generation]:
        self.text = f"Findings: {' '.join(text for text in (EFFUSION, NODULE) if text in request.question)}"
        return super().submit(request)


class Reading(FakeModel):
    """Reads an effusion in images that are brighter below."""

    def submit(self, request: Request) -> Future[Generation]:
        image = request.images[0]
        half = len(image) // 2
        seen = image[half:].mean() > image[:half].mean() + 1
        self.text = f"Findings: {EFFUSION if seen else 'Clear lungs.'}"
        return super().submit(request)


class Guessing(FakeModel):
    """Always writes an effusion, in words that are less probable without a brighter lower half."""

    def submit(self, request: Request) -> Future[Generation]:
        image = request.images[0]
        half = len(image) // 2
        self.log_prob = -0.1 if image[half:].mean() > image[:half].mean() + 1 else -2.0
        return super().submit(request)

    def _generation(self) -> Generation:
        found = super()._generation()
        return replace(found, log_probs=[self.log_prob] * len(found.log_probs))


def labels(score: float) -> LabelScores:
    """Both findings, with a *score* in each image and a threshold of 1."""
    names = ("nodule right", "pleural effusion left")
    return LabelScores(names, *np.ones((2, 2), np.float32), np.full((1, 4, 2), score / 4, np.float32))


def figures(folder: Path, model: FakeModel, *, score: float = 2.0) -> dict[str, float]:
    """Two studies, one with an effusion and one with a nodule, each with a case like itself."""
    index, controls = FakeIndex(labels=labels(score)), Controls()
    for number, report in enumerate((EFFUSION, NODULE)):
        study = StudyToReport([radiograph(folder, name=f"{number}.dcm", turned=bool(number))])
        pipeline = Pipeline(model, index, lambda ids, text=report: dict.fromkeys(ids, text), Settings())  # type: ignore[misc]
        controls.add(study, report, pipeline.run(study, lambda: None))
    return controls.figures(pipeline)


def test_finding_copied_from_exchanged_cases_is_counted_as_shown_unless_the_image_disagrees(tmp_path: Path) -> None:
    shown, flagged = (figures(tmp_path, Copying(), score=score) for score in (2.0, 0.5))

    assert shown["findings that only exchanged cases have"] == flagged["findings that only exchanged cases have"] == 2
    assert shown["of these affirmed"] == flagged["of these affirmed"] == 1
    assert (shown[SWAP], flagged[SWAP]) == (1, 0)


def test_finding_written_without_the_images_was_not_read_in_them(tmp_path: Path) -> None:
    always, copying = FakeModel(f"Findings: {EFFUSION}"), Copying()

    assert figures(tmp_path, always)[COPY] == 1
    # The last pipeline quotes the nodule: one of two findings is written again.
    assert figures(tmp_path, copying)[COPY] == 0.5


def test_finding_that_is_less_probable_without_the_images_was_not_copied(tmp_path: Path) -> None:
    measured = figures(tmp_path, Guessing(f"Findings: {EFFUSION}"))

    # The effusion is as improbable in the other study's own images, which show none.
    assert (measured[WRITTEN], measured[COPY]) == (1, 0.5)


def test_finding_read_in_the_images_is_neither_copied_nor_exchanged(tmp_path: Path) -> None:
    model = Reading()

    measured = figures(tmp_path, model)

    assert measured["findings shown as fact"] == 1
    assert measured[WRITTEN] == measured[COPY] == 0
    assert measured[SWAP] == measured["of these affirmed"] == 0
    sizes = {request.images[0].shape for request in model.requests}
    assert len(sizes) == 1
    assert len(model.requests) == 5


def test_run_without_reports_has_no_figures() -> None:
    measured = Controls().figures(Pipeline(FakeModel(), None, lambda _: {}, Settings()))

    assert not any(value for value in measured.values() if not math.isnan(value))


def test_wrong_findings_of_told_texts_are_marked_where_the_image_disagrees(tmp_path: Path) -> None:
    right, wrong = (figures(tmp_path, Reading(), score=score) for score in (2.0, 0.5))

    # The effusion in the nodule's study, and the other way round.
    for name in ("another study's text", "one wrong sentence"):
        assert wrong[f"{name}: wrong findings"] == 2
        assert (right[f"{name}: wrong findings marked"], wrong[f"{name}: wrong findings marked"]) == (0, 1)
        assert (right[f"{name}: wrong sentences marked"], wrong[f"{name}: wrong sentences marked"]) == (0, 1)


@pytest.mark.parametrize("model", [Copying(), Reading()])
def test_flagged_findings_are_no_facts(tmp_path: Path, model: FakeModel) -> None:
    assert figures(tmp_path, model, score=0.5)["findings shown as fact"] == 0
