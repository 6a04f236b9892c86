"""Series that are not read, or whose body part is doubtful, are named in the report."""

from __future__ import annotations

from typing import Any

from tests.unit.worker.images.studies import radiograph, series
from worker.images.study import images_of


def test_series_not_shown_are_named_with_their_cause(store: Any) -> None:
    head = {"BodyPartExamined": "HEAD", "FrameOfReferenceUID": "1.2.9"}
    scouts = series(store, 1, 2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **head)

    study = images_of(
        [
            *scouts,
            *series(store, 2, 24, **head),
            *series(store, 3, 20, **head),
            *series(store, 4, 4, place=900, **head),
        ]
    )

    assert study.basis == "6 of 24 slices of series 2"
    assert study.limitations() == [
        "Not read: series 1, CT HEAD, 2 images (localizers).",
        "Not read: series 3, CT HEAD, 20 images (another series of the same region).",
        "Not read: series 4, CT HEAD, 4 images (another series of the same body part).",
    ]


def test_header_that_contradicts_itself_is_named(store: Any) -> None:
    study = images_of([radiograph(store, 4, BodyPartExamined="KNEE", SeriesDescription="Thorax p.a.")])

    check = "Check that the images belong to this patient and body part."
    assert study.limitations() == [
        f"Series 4: the body part is EXTREMITY, the description names CHEST. {check}",
    ]


def test_part_taken_from_another_series_is_named(store: Any) -> None:
    head = series(store, 2, 4, BodyPartExamined="HEAD", FrameOfReferenceUID="1.2.7")
    same_place = series(store, 3, 9, BodyPartExamined="", FrameOfReferenceUID="1.2.7")
    knee = radiograph(store, 4, BodyPartExamined="", SeriesDescription="kolano boczne")

    study = images_of([*head, *same_place, knee, radiograph(store, 5, BodyPartExamined="CHEST")])

    check = "Check that the images belong to this patient and body part."
    assert study.limitations()[:2] == [
        f"Series 3: no body part is given; read as HEAD, the only part of the other series. {check}",
        f"Series 4: no body part is given; read as CHEST, the only part of the other series. {check}",
    ]


def test_series_of_which_all_images_are_damaged_is_named(store: Any) -> None:
    chest = series(store, 4, 6, BodyPartExamined="CHEST")
    damaged = series(store, 2, 2, BodyPartExamined="HEAD", PixelData=b"\0\0")

    study = images_of([*chest, *damaged])

    cause = "the pixel data is shorter than the declared image"
    assert study.limitations() == [f"2 images were not used: {cause} (series 2, CT HEAD)."]
