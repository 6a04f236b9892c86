"""Series that are not read, or whose body part is doubtful, are named in the report."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.worker.images.studies import CORONAL, radiograph, series, textured
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


@pytest.mark.parametrize("elsewhere", [{"FrameOfReferenceUID": "1.2.8"}, {"place": 700}])
def test_part_named_for_the_study_only_is_doubtful_in_different_places(store: Any, elsewhere: dict[str, Any]) -> None:
    named = {"StudyDescription": "CT Schädel", "SpecificCharacterSet": "ISO_IR 100", "FrameOfReferenceUID": "1.2.7"}

    study = images_of([*series(store, 1, 10, **named | elsewhere), *series(store, 2, 30, **named)])

    assert study.parts[0].name == "CT HEAD"
    assert study.limitations()[0] == (
        "Series 2: the body part is given for the study only; read as HEAD, although series of the study lie in "
        "different places. Check that the images belong to this patient and body part."
    )


@pytest.mark.parametrize("stated", [{"BodyPartExamined": "HEAD"}, {"SeriesDescription": "Kopf nativ"}])
def test_part_that_the_series_names_is_not_doubtful(store: Any, stated: dict[str, Any]) -> None:
    named = {"StudyDescription": "CT Kopf", "FrameOfReferenceUID": "1.2.7"}

    study = images_of([*series(store, 1, 10, place=700, **named), *series(store, 2, 30, **named, **stated)])

    assert not any("given for the study only" in sentence for sentence in study.limitations())


def test_part_named_for_the_study_only_is_certain_in_one_place(store: Any) -> None:
    named = {"StudyDescription": "CT Kopf", "FrameOfReferenceUID": "1.2.7", "PixelSpacing": [2, 2]}
    localizer = {"FrameOfReferenceUID": "1.2.6", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    facing = {"ImageOrientationPatient": CORONAL, "ImagePositionPatient": [0, 0, 110]}
    coronal = store(textured(1), SeriesInstanceUID="1.2.4", SeriesNumber=4, **named | facing)

    study = images_of(
        [
            *series(store, 1, 2, **named | localizer),
            *series(store, 2, 20, **named),
            *series(store, 3, 1, place=50, **named),
            coronal,
            *series(store, 5, 6, **named | {"FrameOfReferenceUID": ""}),
        ]
    )

    assert all(sentence.startswith("Not read:") for sentence in study.limitations())
