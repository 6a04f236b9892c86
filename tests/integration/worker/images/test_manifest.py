"""Every file of the test data has the outcome that the manifest lists."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np
import pytest

from db.errors import NotReportable
from worker.images.render.contact_sheet import contact_sheet
from worker.images.study import StoredInstance, images_of
from worker.images.study_images import StudyImages

if TYPE_CHECKING:
    from pathlib import Path

#: 12-bit JPEG Extended that pydicom cannot decode: the manifest allows a report once it decodes correctly, and
#: test_dcmtk.py compares it.
DECODES_BY_NOW = "nroduit/1.2.40.0.13.1.1.250248624067381846955775170588225540072.dcm"


def outcome(folder: Path, row: dict[str, str]) -> StudyImages | NotReportable:
    try:
        return images_of([StoredInstance(folder / row["file"], row["sop_uid"])])
    except NotReportable as refusal:
        return refusal


@pytest.fixture(scope="module")
def outcomes(test_data: Path) -> list[tuple[dict[str, str], StudyImages | NotReportable]]:
    folder = test_data / "dicom"
    with (folder / "MANIFEST.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 100
    return [(row, outcome(folder, row)) for row in rows]


def test_every_file_to_report_gives_images(
    outcomes: list[tuple[dict[str, str], StudyImages | NotReportable]],
) -> None:
    failed = {
        row["file"]: str(got) for row, got in outcomes if row["expected"] == "report" and isinstance(got, Exception)
    }

    assert not failed


def test_every_other_storable_file_is_rejected_with_a_reason(
    outcomes: list[tuple[dict[str, str], StudyImages | NotReportable]],
) -> None:
    """Objects refused at C-STORE for their UIDs never reach the worker."""
    ours = [
        (row, got)
        for row, got in outcomes
        if row["expected"] != "report" and "C-STORE" not in row["reject_stage"] and row["file"] != DECODES_BY_NOW
    ]

    shown = [row["file"] for row, got in ours if isinstance(got, StudyImages)]

    assert len(ours) > 35
    assert not shown
    assert all(got.reason.isidentifier() and len(got.detail) > 20 for _, got in ours if isinstance(got, NotReportable))


def test_every_image_is_rgb_with_a_transform_and_a_reason(
    outcomes: list[tuple[dict[str, str], StudyImages | NotReportable]],
) -> None:
    images = [image for _, got in outcomes if isinstance(got, StudyImages) for image in got.images]

    assert len(images) > 100
    assert all(image.pixels.dtype == np.uint8 and image.pixels.shape[2:] == (3,) for image in images)
    assert all(image.reason and image.transform["photometric"] for image in images)


def test_constant_image_is_used_with_a_warning(
    outcomes: list[tuple[dict[str, str], StudyImages | NotReportable]],
) -> None:
    blank = next(got for row, got in outcomes if row["file"].endswith("odd_constant_pixels.dcm"))

    assert isinstance(blank, StudyImages)
    assert not any(part.informative for part in blank.parts)
    assert blank.images[0].warnings == ["blank (all pixels have the same value)"]


def test_real_radiographs_get_no_warning(
    outcomes: list[tuple[dict[str, str], StudyImages | NotReportable]],
) -> None:
    radiographs = [got for row, got in outcomes if row["file"].startswith("cxr_real/")]

    assert len(radiographs) == 8
    assert not [p.warnings for got in radiographs if isinstance(got, StudyImages) for p in got.images if p.warnings]


def test_contact_sheet_shows_every_image(
    outcomes: list[tuple[dict[str, str], StudyImages | NotReportable]],
) -> None:
    study = next(got for row, got in outcomes if row["file"].endswith("examples_ybr_color.dcm"))
    assert isinstance(study, StudyImages)

    sheet = np.asarray(contact_sheet(study))

    assert len(study.images) == 8
    assert sheet.shape[1] == 4 * 332 + 12
    assert all(
        sheet[40 + row * 408 : 360 + row * 408, 12 + 332 * n : 332 + 332 * n].std() > 10
        for n in range(4)
        for row in range(2)
    )
