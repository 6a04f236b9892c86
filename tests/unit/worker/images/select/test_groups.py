"""Several body parts and modalities in one study, and the names of what is not read."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage, generate_uid

from tests.unit.worker.images.studies import AXIAL, positioned, radiograph, series, textured
from worker.images.study import images_of

if TYPE_CHECKING:
    from worker.images.study import StoredInstance
    from worker.images.study_images import StudyImages


def summary(study: StudyImages) -> dict[str, list[str]]:
    return {part.name: [image.reason for image in part.images] for part in study.parts}


def windows(study: StudyImages) -> dict[str, set[str]]:
    return {part.name: {str(image.transform.get("window")) for image in part.images} for part in study.parts}


def test_each_series_is_shown_as_its_own_body_part(store: Any) -> None:
    chest = series(store, 4, 30, place=1000, BodyPartExamined="CHEST")
    head = series(store, 2, 12, place=1500, BodyPartExamined="HEAD")

    study = images_of([*chest, *head])

    assert study.basis == "CT HEAD: 3 of 12 slices of series 2; CT CHEST: 2 of 30 slices of series 4"
    assert windows(study) == {"CT HEAD": {"brain", "bone"}, "CT CHEST": {"mediastinum", "lung"}}
    assert study.unread == []


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("CHESTABDPELVIS", {"lung", "bone"}),
        ("HEADNECK", {"brain", "bone", "soft tissue"}),
        ("THORAX^TAP", {"lung", "bone"}),
        ("KOPF", {"brain", "bone"}),
    ],
)
def test_combined_part_has_the_windows_of_each(store: Any, written: str, expected: set[str]) -> None:
    study = images_of(series(store, 3, 24, BodyPartExamined="", SeriesDescription=written))

    assert expected <= next(iter(windows(study).values()))


def test_order_of_arrival_changes_nothing(store: Any) -> None:
    stored = [
        *series(store, 2, 6, BodyPartExamined="HEAD"),
        *series(store, 3, 6, BodyPartExamined="HEAD"),
        *series(store, 4, 6, place=500, BodyPartExamined="NECK"),
        *(radiograph(store, 10 + n, BodyPartExamined=part) for n, part in enumerate(("KNEE", "CHEST", "WRIST"))),
    ]
    first = images_of(stored)

    for seed in range(3):
        random.Random(seed).shuffle(stored)
        assert summary(images_of(stored)) == summary(first)
        assert images_of(stored).limitations() == first.limitations()
    assert list(summary(first)) == ["CT HEAD", "CT NECK", "DX CHEST", "DX EXTREMITY"]


def test_small_head_series_of_a_whole_body_scan_is_seen(store: Any) -> None:
    trauma = series(store, 3, 60, BodyPartExamined="WHOLEBODY")

    for written in ({"BodyPartExamined": "HEAD"}, {"BodyPartExamined": "WHOLEBODY", "SeriesDescription": "Brain 5mm"}):
        study = images_of([*trauma, *series(store, 2, 3, **written)])

        shown = {part.name: len(part.images) for part in study.parts}
        assert shown["CT HEAD"] >= 1
        assert shown["CT WHOLE BODY"] > shown["CT HEAD"]


def test_parts_beyond_the_budget_are_named(store: Any) -> None:
    stored = [
        radiograph(store, n, BodyPartExamined=part) for n, part in enumerate(("KNEE", "SKULL", "CHEST", "PELVIS"), 1)
    ]

    study = images_of(stored, budget=2)

    assert list(summary(study)) == ["DX HEAD", "DX CHEST"]
    named = "series 1, DX EXTREMITY, 1 image; series 4, DX PELVIS, 1 image"
    assert study.limitations() == [f"Not read: {named} (more body parts than images can be shown)."]


def test_views_beyond_the_budget_are_counted_by_series(store: Any) -> None:
    common = {"SeriesInstanceUID": "1.2.5", "SeriesNumber": 5, "BodyPartExamined": "CHEST"}
    views = [radiograph(store, n, **common, InstanceNumber=n) for n in range(10)]
    raw = radiograph(store, 20, BodyPartExamined="CHEST", PresentationIntentType="FOR PROCESSING")

    assert images_of([*views, raw]).limitations() == [
        "Not read: series 5, DX CHEST, 2 of 10 images (more images than can be shown).",
        "Not read: series 20, DX CHEST, 1 image (copies for processing).",
    ]


def test_code_of_the_examination_does_not_hide_a_series_of_another_part(store: Any) -> None:
    trauma = series(store, 3, 40, BodyPartExamined="CHEST", SeriesDescription="Thorax Abdomen")

    study = images_of([*trauma, *series(store, 2, 8, BodyPartExamined="CHEST", SeriesDescription="Kopf nativ")])

    assert windows(study)["CT HEAD"] == {"brain", "bone"}
    assert study.limitations()[0].startswith("Series 2: the body part is CHEST, the description names HEAD.")


def test_parts_named_for_the_study_only_are_each_shown(store: Any) -> None:
    named = {"BodyPartExamined": "", "StudyDescription": "CT Kopf und Thorax", "FrameOfReferenceUID": "1.2.7"}
    chest, head = series(store, 3, 30, **named), series(store, 2, 8, place=400, **named)

    study = images_of([*chest, *head, *series(store, 4, 10, place=40, **named)])

    assert study.basis == "4 of 38 slices of series 2, 3"
    assert [sentence.split(",")[0] for sentence in study.limitations()] == ["Not read: series 4"]


def test_modalities_are_parts_and_count_alike(store: Any) -> None:
    ct = series(store, 2, 30, BodyPartExamined="WHOLEBODY")
    pet = series(store, 3, 30, BodyPartExamined="", Modality="PT", SOPClassUID=PositronEmissionTomographyImageStorage)

    study = images_of([*ct, *pet])

    shown = {part.name: len(part.images) for part in study.parts}
    assert shown["PT"] == 4
    assert shown["CT WHOLE BODY"] >= 3


def test_series_without_a_part_has_that_of_its_frame_of_reference(store: Any) -> None:
    neck = series(store, 2, 4, BodyPartExamined="NECK", FrameOfReferenceUID="1.2.7")
    abdomen = series(store, 3, 4, BodyPartExamined="ABDOMEN", FrameOfReferenceUID="1.2.8")
    unnamed = series(store, 4, 9, BodyPartExamined="", FrameOfReferenceUID="1.2.8")

    assert images_of([*neck, *abdomen, *unnamed]).basis == (
        "CT NECK: 3 of 4 slices of series 2; CT ABDOMEN: 4 of 9 slices of series 4"
    )


@pytest.mark.parametrize("elsewhere", [{"FrameOfReferenceUID": "1.2.8"}, {"place": -600}])
def test_slices_that_lie_elsewhere_do_not_take_the_only_part(store: Any, elsewhere: dict[str, Any]) -> None:
    head = series(store, 2, 6, BodyPartExamined="HEAD", FrameOfReferenceUID="1.2.7")
    unnamed = {"BodyPartExamined": "", "SeriesDescription": "OGK 5mm", "FrameOfReferenceUID": "1.2.7"}
    other = series(store, 3, 30, **unnamed | elsewhere)

    study = images_of([*head, *other])

    assert list(summary(study)) == ["CT HEAD", "CT"]
    assert windows(study)["CT"] == {"soft tissue"}
    assert study.limitations() == []


def test_coronal_reformat_lies_where_its_slices_lie(store: Any) -> None:
    axial = series(store, 2, 20, BodyPartExamined="HEAD", FrameOfReferenceUID="1.2.7", PixelSpacing=[2, 2])
    coronal = {
        "ImageOrientationPatient": [1, 0, 0, 0, 0, -1],
        "ImagePositionPatient": [0, 0, 100],
        "PixelSpacing": [1, 1],
    }
    reformat = store(
        textured(1),
        SeriesInstanceUID="1.2.99",
        SeriesNumber=9,
        FrameOfReferenceUID="1.2.7",
        BodyPartExamined="",
        **coronal,
    )

    assert list(summary(images_of([*axial, reformat]))) == ["CT HEAD"]


def test_both_views_of_a_localizer_are_shown(store: Any) -> None:
    def scout(number: int, orientation: list[int]) -> StoredInstance:
        written: StoredInstance = store(
            textured(number),
            ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
            BodyPartExamined="CHEST",
            InstanceNumber=number,
            ImageOrientationPatient=orientation,
            ImagePositionPatient=[0, 0, 0],
            RescaleSlope=1,
            RescaleIntercept=-1000,
        )
        return written

    frontal, lateral = scout(1, [1, 0, 0, 0, 0, -1]), scout(2, [0, 1, 0, 0, 0, -1])
    study = images_of([lateral, frontal])

    assert [image.sop_instance_uid for image in study.images] == [frontal.sop_instance_uid, lateral.sop_instance_uid]
    assert study.basis == "2 of 2 images (only localizers were received)"


def test_duplicate_slices_without_positions_are_replaced(store: Any) -> None:
    stored = [store(textured(n // 2), InstanceNumber=n, BodyPartExamined="HEAD") for n in range(16)]

    study = images_of(stored, budget=6)

    assert len({image.pixels.tobytes() for image in study.images}) == 6


def test_volume_sent_twice_is_shown_once_and_named(store: Any) -> None:
    mr = {"Modality": "MR", "SOPClassUID": MRImageStorage, "BodyPartExamined": "HEAD"}
    first, other = series(store, 2, 8, **mr), series(store, 3, 8, **mr)
    again = [
        store(
            textured(2000 + each),
            ImageOrientationPatient=AXIAL,
            ImagePositionPatient=[0, 0, 5.0 * each],
            SeriesInstanceUID="1.2.77",
            SeriesNumber=7,
            RescaleSlope=1,
            RescaleIntercept=-1000,
            **mr,
        )
        for each in range(8)
    ]

    study = images_of([*first, *again, *other])

    assert study.basis == "8 of 16 slices of series 2, 3"
    assert study.limitations() == ["Not read: series 7, MR HEAD, 8 images (a copy of another series)."]


def test_same_pixels_with_another_orientation_are_no_copy(store: Any) -> None:
    def stored(number: int, orientation: list[int]) -> list[StoredInstance]:
        facing = {"ImageOrientationPatient": orientation, "SeriesNumber": number, "SeriesInstanceUID": f"1.2.{number}"}
        return [store(textured(each), ImagePositionPatient=[0, 0, 5.0 * each], **facing) for each in range(4)]

    study = images_of([*stored(2, AXIAL), *stored(3, [-1, 0, 0, 0, 1, 0])])

    assert study.limitations() == ["Not read: series 3, CT, 4 images (another series of the same region)."]


def test_maps_with_the_same_empty_frames_are_no_copies(store: Any) -> None:
    def enhanced(number: int) -> Any:
        frames = np.zeros((60, 128, 128), np.int16)
        frames[40:] = [textured(100 * number + each, 128) for each in range(20)]
        groups = [positioned([0, 0, float(each)], AXIAL) for each in range(60)]
        series = {"SeriesNumber": number, "SeriesInstanceUID": generate_uid(), "Modality": "MR"}
        return store(frames, **series, SOPClassUID=EnhancedMRImageStorage, PerFrameFunctionalGroupsSequence=groups)

    study = images_of([enhanced(2), enhanced(3)])

    assert not any("copy" in sentence for sentence in study.limitations())
    assert {image.reason.split()[-1] for image in study.images} == {"2", "3"}
