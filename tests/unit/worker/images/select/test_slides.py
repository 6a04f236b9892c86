from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.uid import (
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    VLWholeSlideMicroscopyImageStorage,
)

from db.errors import NotReportable
from worker.images.study import StoredInstance, images_of


def slide(store: Any, tiles: np.ndarray[Any, Any], rows: int, columns: int) -> StoredInstance:
    stored: StoredInstance = store(
        tiles,
        SOPClassUID=VLWholeSlideMicroscopyImageStorage,
        Modality="SM",
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        TotalPixelMatrixRows=rows,
        TotalPixelMatrixColumns=columns,
        DimensionOrganizationType="TILED_FULL",
    )
    return stored


def test_small_slide_level_is_assembled_from_its_tiles(store: Any) -> None:
    tiles = np.stack([np.full((16, 16, 3), 40 * n, np.uint8) for n in range(6)])

    image = images_of([slide(store, tiles, 20, 40)]).images[0]

    assert image.pixels.shape == (20, 40, 3)
    assert [int(image.pixels[y, x, 0]) for y, x in ((0, 0), (0, 20), (0, 39), (19, 0), (19, 39))] == [
        0,
        40,
        80,
        120,
        200,
    ]


def test_tissue_is_found_by_saturation_without_decoding_most_tiles(store: Any) -> None:
    tiles = np.full((16, 1024, 1024, 3), 240, np.uint8)
    tissue = np.random.default_rng(1).integers(0, 80, (1024, 1024), np.uint8)
    for n in (5, 10):
        tiles[n, ..., 1] = tissue + n

    study = images_of([slide(store, tiles, 4096, 4096)], budget=2)

    assert [image.frame for image in study.images] == [5, 10]


def test_slide_label_is_never_used(store: Any) -> None:
    label = store(
        np.full((64, 64, 3), 9, np.uint8),
        SOPClassUID=MultiFrameTrueColorSecondaryCaptureImageStorage,
        Modality="SM",
        ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"],
    )

    with pytest.raises(NotReportable, match="label"):
        images_of([label])


def test_both_slides_of_a_study_are_selected(store: Any) -> None:
    stored = []
    for series in (4, 7):
        tiles = np.random.default_rng(series).integers(0, 255, (4, 64, 64, 3), np.uint8)
        stored.append(
            store(
                tiles,
                SOPClassUID=VLWholeSlideMicroscopyImageStorage,
                Modality="SM",
                SeriesNumber=series,
                SeriesInstanceUID=f"1.2.{series}",
                TotalPixelMatrixRows=128,
                TotalPixelMatrixColumns=128,
                DimensionOrganizationType="TILED_FULL",
            )
        )

    study = images_of(stored)

    assert [image.reason for image in study.images] == [
        "overview of the slide of series 4",
        "overview of the slide of series 7",
    ]
    assert study.basis == ("1 image from the slide of series 4 (4 tiles); 1 image from the slide of series 7 (4 tiles)")
