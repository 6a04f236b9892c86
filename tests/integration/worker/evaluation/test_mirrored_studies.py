"""Phantoms stored mirrored or turned, read by the demo checkpoint: each finding is reported on its own side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from db.settings import Settings
from deploy.demo.demo import CHECKPOINT
from worker.findings.labeller import finding_names
from worker.images.study import StoredInstance
from worker.model.resident_model import ResidentModel
from worker.phantoms.cases import Case, Finding
from worker.phantoms.dicom_files import write_study
from worker.pipeline.pipeline import Pipeline, StudyToReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from db.reports.versions import Draft

CHEST = Case("chest", 1, (Finding("pleural effusion", "right", size="large"),))
HEAD = Case("ct", 23, (Finding("haemorrhage", "left"),))


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    model = ResidentModel.load(CHECKPOINT, device="cpu")
    yield Pipeline(model, None, lambda _: {}, Settings(device="cpu"))
    model.close()


def mirrored(image: Dataset) -> None:
    """Store the columns in the opposite order, and say so."""
    image.PixelData = np.ascontiguousarray(image.pixel_array[:, ::-1]).tobytes()
    if "PatientOrientation" in image:
        image.PatientOrientation = ["R", "F"]
    else:
        image.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
        image.ImagePositionPatient = [110, *image.ImagePositionPatient[1:]]


def turned(image: Dataset) -> None:
    """Store the columns as rows, and say so."""
    image.PixelData = np.ascontiguousarray(image.pixel_array.T).tobytes()
    if "PatientOrientation" in image:
        image.PatientOrientation = ["F", "L"]
    else:
        image.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]


def report(pipeline: Pipeline, case: Case, folder: Path, change: Callable[[Dataset], None]) -> Draft:
    stored = []
    for path in write_study(case, folder, small=True):
        image = dcmread(path)
        change(image)
        image.save_as(path)
        stored.append(StoredInstance(path, image.SOPInstanceUID))
    return pipeline.run(StudyToReport(stored), lambda: None)


@pytest.mark.parametrize("change", [mirrored, turned])
@pytest.mark.parametrize(("case", "expected"), [(CHEST, "pleural effusion right"), (HEAD, "haemorrhage left")])
def test_a_study_stored_otherwise_is_reported_on_the_right_side(
    pipeline: Pipeline, tmp_path: Path, case: Case, expected: str, change: Callable[[Dataset], None]
) -> None:
    draft = report(pipeline, case, tmp_path, change)

    assert finding_names(draft.findings) == {expected}
    assert not any("reversed" in sentence for sentence in draft.limitations)


def test_a_phantom_without_orientation_is_reported_with_a_limitation(pipeline: Pipeline, tmp_path: Path) -> None:
    def silent(image: Dataset) -> None:
        image.PatientOrientation = None

    draft = report(pipeline, CHEST, tmp_path, silent)

    assert any("right and left may be reversed" in sentence for sentence in draft.limitations)
