from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    JPEGLSLossless,
    MRImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundMultiFrameImageStorage,
    VLWholeSlideMicroscopyImageStorage,
)

from db.errors import NotReportable
from worker.images.runs import spread
from worker.images.study import StoredInstance, StudyPictures, pictures_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

AXIAL, CORONAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1]


def textured(seed: int, side: int = 64) -> np.ndarray[Any, Any]:
    """A smooth picture, different for each seed."""
    y, x = np.mgrid[0:side, 0:side]
    waves: np.ndarray[Any, Any] = 1000 + 500 * np.sin(x / 9 + seed) * np.cos(y / 7 + seed)
    return waves.astype(np.int16)


def ct(store: Any, count: int, **more: Any) -> list[StoredInstance]:
    """A volume whose instance numbers run against its positions."""
    return [
        store(
            textured(number),
            ImageOrientationPatient=AXIAL,
            ImagePositionPatient=[0, 0, 5.0 * number],
            InstanceNumber=count - number,
            RescaleSlope=1,
            RescaleIntercept=-1000,
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            **more,
        )
        for number in range(count)
    ]


def places(study: StudyPictures, stored: list[StoredInstance]) -> list[int]:
    order = {item.sop_instance_uid: number for number, item in enumerate(stored)}
    return [order[picture.sop_instance_uid] for picture in study.pictures]


def test_slices_are_spread_by_position_not_by_instance_number(store: Any) -> None:
    stored = ct(store, 40)

    study = pictures_of(stored[::2] + stored[1::2], budget=5)

    assert places(study, stored) == [4, 12, 20, 27, 35]
    assert study.basis == "5 of 40 slices of series 3"
    assert study.pictures[0].reason.startswith("slice 5 of 40 of series 3")


def test_a_chest_ct_is_shown_in_mediastinal_and_lung_windows(store: Any) -> None:
    study = pictures_of(ct(store, 40, BodyPartExamined="CHEST"), budget=8)

    windows = [picture.transform["window"] for picture in study.pictures]
    assert windows == ["mediastinum"] * 4 + ["lung"] * 4
    assert study.basis == "4 of 40 slices of series 3"
    assert (study.modality, study.body_part) == ("CT", "CHEST")


def test_a_localizer_is_left_out_where_there_is_a_volume_and_used_with_a_word_where_there_is_not(store: Any) -> None:
    scout = store(textured(99), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])

    study = pictures_of([scout, *ct(store, 6)])
    alone = pictures_of([scout])

    assert scout.sop_instance_uid not in {picture.sop_instance_uid for picture in study.pictures}
    assert [left.sop_instance_uid for left in study.left_out] == [scout.sop_instance_uid]
    assert alone.basis.endswith("only localizers were sent")


def test_a_screen_save_is_used_only_alone(store: Any) -> None:
    save = store(textured(5), SOPClassUID=SecondaryCaptureImageStorage, ImageType=["DERIVED", "SECONDARY"])

    assert save.sop_instance_uid in {left.sop_instance_uid for left in pictures_of([save, *ct(store, 4)]).left_out}
    assert len(pictures_of([save]).pictures) == 1


def test_orientations_in_one_series_are_separate_volumes_and_the_axial_one_is_shown(store: Any) -> None:
    axial = ct(store, 6)
    coronal = [
        store(textured(50 + n), ImageOrientationPatient=CORONAL, ImagePositionPatient=[0, 5.0 * n, 0]) for n in range(9)
    ]

    study = pictures_of(coronal + axial)

    assert study.basis == "6 of 6 slices of series 3, 9 more of other orientations or contrasts not shown"


def test_a_volume_whose_orientation_differs_in_the_last_digits_or_is_turned_over_stays_one(store: Any) -> None:
    tilts = [0.05, 0.0501, 0.0499, 0.05]
    stored = [
        store(
            textured(n),
            ImageOrientationPatient=[1, 0, 0, 0, (-1 if n % 2 else 1) * (1 - tilts[n % 4] ** 2) ** 0.5, tilts[n % 4]],
            ImagePositionPatient=[0, 0, 5.0 * n],
        )
        for n in range(6)
    ]

    study = pictures_of(stored[::-1])

    assert study.basis == "6 of 6 slices of series 3"
    assert [picture.sop_instance_uid for picture in study.pictures] == [item.sop_instance_uid for item in stored]


def test_phases_at_one_place_are_represented_by_the_first_acquired(store: Any) -> None:
    early, late = ct(store, 5, AcquisitionNumber=1), ct(store, 5, AcquisitionNumber=2)

    study = pictures_of(late + early)

    assert study.basis == "5 of 5 slices of series 3, 5 more at the same places not shown"
    assert {picture.sop_instance_uid for picture in study.pictures} == {item.sop_instance_uid for item in early}


def test_several_contrasts_of_an_mr_study_share_the_budget(store: Any) -> None:
    stored = [
        store(
            textured(10 * series + n),
            SOPClassUID=MRImageStorage,
            Modality="MR",
            SeriesInstanceUID=f"1.2.{series}",
            SeriesNumber=series,
            ImageOrientationPatient=AXIAL,
            ImagePositionPatient=[0, 0, 4.0 * n],
        )
        for series in (4, 2, 7)
        for n in range(10)
    ]

    study = pictures_of(stored, budget=6)

    assert study.basis == "6 of 30 slices of series 2, 4, 7"


def positioned(place: Sequence[float], orientation: Sequence[float], **macros: Dataset) -> Dataset:
    """The functional groups of one frame."""
    position, facing, frame = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient, facing.ImageOrientationPatient = list(place), list(orientation)
    frame.PlanePositionSequence, frame.PlaneOrientationSequence = [position], [facing]
    for name, macro in macros.items():
        setattr(frame, name, [macro])
    return frame


def test_the_stacks_of_one_enhanced_mr_object_are_all_shown(store: Any) -> None:
    frames = [
        positioned([5.0 * n * (axis == side) for axis in range(3)], orientation)
        for side, orientation in ((2, AXIAL), (1, CORONAL), (0, [0, 1, 0, 0, 0, -1]))
        for n in range(6)
    ]
    pixels = np.stack([textured(number) for number in range(18)])
    stored = store(pixels, SOPClassUID=EnhancedMRImageStorage, Modality="MR", PerFrameFunctionalGroupsSequence=frames)

    study = pictures_of([stored], budget=6)

    assert [picture.frame // 6 for picture in study.pictures] == [0, 0, 1, 1, 2, 2]
    assert study.basis == "6 of 18 slices of series 3"


def test_an_enhanced_ct_is_shown_in_the_windows_of_the_region_its_functional_groups_name(store: Any) -> None:
    rescale, anatomy, region, shared = Dataset(), Dataset(), Dataset(), Dataset()
    rescale.RescaleIntercept, rescale.RescaleSlope, rescale.RescaleType = -1000, 1, "HU"
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "51185008", "SCT", "Thorax"
    anatomy.FrameLaterality, anatomy.AnatomicRegionSequence = "U", [region]
    shared.FrameAnatomySequence = [anatomy]
    stored = store(
        np.stack([textured(number) for number in range(9)]),
        SOPClassUID=EnhancedCTImageStorage,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=[
            positioned([0, 0, 5.0 * n], AXIAL, PixelValueTransformationSequence=rescale) for n in range(9)
        ],
    )

    study = pictures_of([stored])

    assert study.body_part == "CHEST"
    assert {picture.transform["window"] for picture in study.pictures} == {"mediastinum", "lung"}


def test_a_mosaic_is_shown_only_where_there_are_no_slices(store: Any) -> None:
    def mr(seed: int, *types: str) -> StoredInstance:
        place = {"ImageOrientationPatient": AXIAL, "ImagePositionPatient": [0, 0, 5.0 * seed]}
        kinds = ["ORIGINAL", "PRIMARY", *types]
        written: StoredInstance = store(
            textured(seed), SOPClassUID=MRImageStorage, Modality="MR", ImageType=kinds, **place
        )
        return written

    slices, mosaics = [mr(n, "M") for n in range(4)], [mr(n, "M", "MOSAIC") for n in range(5, 9)]

    assert places(pictures_of(slices + mosaics), slices) == [0, 1, 2, 3]
    assert len(pictures_of(mosaics).pictures) == 4


def test_frames_of_an_enhanced_object_are_ordered_by_their_own_positions(store: Any) -> None:
    order = [3, 0, 4, 1, 2]
    frames = [positioned([0, 0, 5.0 * place], AXIAL) for place in order]
    pixels = np.stack([textured(place) for place in order])
    stored = store(pixels, SOPClassUID=EnhancedMRImageStorage, Modality="MR", PerFrameFunctionalGroupsSequence=frames)

    study = pictures_of([stored])

    assert [picture.frame for picture in study.pictures] == [1, 3, 4, 0, 2]


def test_a_frontal_view_comes_before_a_lateral_and_processing_copies_are_dropped(store: Any) -> None:
    def view(name: str, seed: int, intent: str = "FOR PRESENTATION") -> StoredInstance:
        kind = DigitalXRayImageStorageForPresentation
        written: StoredInstance = store(
            textured(seed), SOPClassUID=kind, Modality="DX", ViewPosition=name, PresentationIntentType=intent
        )
        return written

    lateral, raw, frontal = view("LL", 1), view("PA", 2, "FOR PROCESSING"), view("PA", 3)
    study = pictures_of([lateral, raw, frontal])

    assert [picture.sop_instance_uid for picture in study.pictures] == [
        frontal.sop_instance_uid,
        lateral.sop_instance_uid,
    ]
    assert study.basis == "2 of 2 views"


def test_mammograms_are_hung_as_the_four_views(store: Any) -> None:
    wanted = [("R", "CC"), ("L", "CC"), ("R", "MLO"), ("L", "MLO")]
    stored = {
        pair: store(textured(n), Modality="MG", ImageLaterality=pair[0], ViewPosition=pair[1])
        for n, pair in enumerate(reversed(wanted))
    }

    study = pictures_of(list(stored.values()))

    assert [p.sop_instance_uid for p in study.pictures] == [stored[pair].sop_instance_uid for pair in wanted]


def test_a_cine_run_is_shown_by_frames_spread_over_it(store: Any) -> None:
    run = np.stack([textured(n).astype(np.uint16) for n in range(30)])
    stored = store(run, SOPClassUID=UltrasoundMultiFrameImageStorage, Modality="US")

    study = pictures_of([stored], budget=4)

    assert [picture.frame for picture in study.pictures] == [3, 11, 18, 26]
    assert study.basis == "4 of 30 frames"


def test_a_still_sent_twice_is_shown_once(store: Any) -> None:
    study = pictures_of([store(textured(1), Modality="XC"), store(textured(1), Modality="XC")])

    assert len(study.pictures) == 1
    assert [left.reason for left in study.left_out] == ["duplicate"]


def test_a_damaged_slice_is_left_out_and_another_takes_its_place(store: Any) -> None:
    stored = ct(store, 20)
    first = pictures_of(stored, budget=4)
    damaged = next(item for item in stored if item.sop_instance_uid == first.pictures[1].sop_instance_uid)
    damaged.path.write_bytes(damaged.path.read_bytes()[:-500])

    study = pictures_of(stored, budget=4)

    assert len(study.pictures) == 4
    assert [(left.sop_instance_uid, left.reason) for left in study.left_out] == [
        (damaged.sop_instance_uid, "truncated")
    ]


def test_a_run_with_one_damaged_frame_is_shown_without_it(store: Any) -> None:
    run = np.stack([textured(n).astype(np.uint16) for n in range(4)])
    stored = store(run, SOPClassUID=UltrasoundMultiFrameImageStorage, Modality="US", syntax=JPEGLSLossless)
    content = stored.path.read_bytes()
    second = content.index(b"\xff\xd8", content.index(b"\xff\xd9"))
    stored.path.write_bytes(content[:second] + b"\0\0" + content[second + 2 :])

    study = pictures_of([stored])

    assert [picture.frame for picture in study.pictures] == [0, 2, 3]
    assert [(left.frame, left.reason) for left in study.left_out] == [(1, "undecodable")]


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


def test_a_small_level_of_a_slide_is_assembled_from_its_tiles(store: Any) -> None:
    tiles = np.stack([np.full((16, 16, 3), 40 * n, np.uint8) for n in range(6)])

    picture = pictures_of([slide(store, tiles, 20, 40)]).pictures[0]

    assert picture.pixels.shape == (20, 40, 3)
    assert [int(picture.pixels[y, x, 0]) for y, x in ((0, 0), (0, 20), (0, 39), (19, 0), (19, 39))] == [
        0,
        40,
        80,
        120,
        200,
    ]


def test_tissue_tiles_of_a_large_level_are_found_by_colour_and_most_tiles_never_decoded(store: Any) -> None:
    tiles = np.full((16, 1024, 1024, 3), 240, np.uint8)
    tissue = np.random.default_rng(1).integers(0, 80, (1024, 1024), np.uint8)
    for n in (5, 10):
        tiles[n, ..., 1] = tissue + n

    study = pictures_of([slide(store, tiles, 4096, 4096)], budget=2)

    assert [picture.frame for picture in study.pictures] == [5, 10]


def test_the_label_of_a_slide_is_never_shown(store: Any) -> None:
    label = store(
        np.full((64, 64, 3), 9, np.uint8),
        SOPClassUID=MultiFrameTrueColorSecondaryCaptureImageStorage,
        Modality="SM",
        ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"],
    )

    with pytest.raises(NotReportable, match="label"):
        pictures_of([label])


def test_a_study_without_images_says_so(tmp_path: Path) -> None:
    (tmp_path / "note").write_bytes(b"no DICOM at all" * 20)

    with pytest.raises(NotReportable, match="^no_images"):
        pictures_of([])
    with pytest.raises(NotReportable, match="^not_dicom"):
        pictures_of([StoredInstance(tmp_path / "note", "1.2")])


@pytest.mark.parametrize(
    ("total", "count", "expected"), [(1, 8, [0]), (3, 8, [0, 1, 2]), (11, 1, [5]), (101, 3, [10, 50, 90])]
)
def test_spread_trims_the_ends_and_never_repeats(total: int, count: int, expected: list[int]) -> None:
    assert spread(total, count) == expected


def test_two_slides_of_a_study_are_both_shown_and_named(store: Any) -> None:
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

    study = pictures_of(stored)

    assert [picture.reason for picture in study.pictures] == [
        "the whole slide of series 4",
        "the whole slide of series 7",
    ]
    assert study.basis == (
        "1 picture of the slide of series 4 of 4 tiles; 1 picture of the slide of series 7 of 4 tiles"
    )


def test_a_bone_survey_is_no_scout(store: Any) -> None:
    survey = ct(store, 12, SeriesDescription="Bone Survey 2.0")
    reformatted = store(textured(99), ImageType=["DERIVED", "PRIMARY", "MPR"])

    assert pictures_of([*survey, reformatted]).basis == "8 of 12 slices of series 3"


def test_a_short_series_called_scout_is_one_where_its_image_type_says_nothing(store: Any) -> None:
    scouts = [
        store(
            textured(90 + n),
            SeriesDescription="3-plane loc",
            SeriesInstanceUID="1.2.9",
            ImageOrientationPatient=orientation,
        )
        for n, orientation in enumerate((AXIAL, CORONAL, [0, 1, 0, 0, 0, -1]))
    ]

    study = pictures_of([*scouts, *ct(store, 4)])

    assert study.basis == "4 of 4 slices of series 3"
    assert {left.detail for left in study.left_out} == {"localizers, and there are better images"}


@pytest.mark.parametrize(
    "elements",
    [
        {"ImagePositionPatient": [0, 0, 0]},
        {"ImageOrientationPatient": [0] * 6},
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
    ],
)
def test_slices_that_all_claim_one_place_are_kept_and_their_order_explained(
    store: Any, elements: dict[str, Any]
) -> None:
    study = pictures_of([store_slice(store, n, **elements) for n in range(6)])

    assert study.basis == "6 of 6 slices of series 3"
    assert "do not say where they lie" in study.pictures[0].reason


def store_slice(store: Any, number: int, **elements: Any) -> StoredInstance:
    usual = {
        "ImageOrientationPatient": AXIAL,
        "ImagePositionPatient": [0, 0, 5.0 * number],
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }
    written: StoredInstance = store(textured(number), InstanceNumber=number, **usual | elements)
    return written


def test_slices_without_a_position_among_others_are_not_lost(store: Any) -> None:
    stored = [store_slice(store, n, **({} if n % 2 else {"ImagePositionPatient": None})) for n in range(8)]

    assert pictures_of(stored).basis == "8 of 8 slices of series 3"


def test_a_full_coronal_volume_comes_before_a_remnant_of_an_axial_one(store: Any) -> None:
    coronal = [
        store_slice(store, n, ImageOrientationPatient=CORONAL, ImagePositionPatient=[0, 5.0 * n, 0]) for n in range(20)
    ]

    assert pictures_of(ct(store, 3) + coronal).basis.startswith("8 of 20 slices of series 3, 3 more")


def test_derived_slices_are_used_where_there_are_too_few_primary_ones_and_said_to_be_derived(store: Any) -> None:
    derived = [store_slice(store, n, ImageType=["DERIVED", "PRIMARY", "AXIAL"]) for n in range(9)]
    primary = store_slice(store, 50)

    study = pictures_of([*derived, primary])

    assert study.basis == "7 of 9 slices of series 3, all of them derived images"
    assert [left.detail for left in study.left_out] == ["too few primary images, and more derived ones"]


def test_each_modality_is_shown_by_the_best_it_has(store: Any) -> None:
    mr = [
        store(textured(70 + n), SOPClassUID=MRImageStorage, Modality="MR", ImageType=["DERIVED", "PRIMARY"])
        for n in range(3)
    ]
    save = store(textured(5), SOPClassUID=SecondaryCaptureImageStorage, Modality="OT")

    study = pictures_of([*ct(store, 6), *mr, save], budget=6)

    assert study.basis == "CT: 3 of 6 slices of series 3; MR: 3 of 3 slices of series 3, all of them derived images"


def test_repeated_views_do_not_crowd_out_the_others(store: Any) -> None:
    mammograms = [
        store(textured(n), Modality="MG", ViewPosition="CC", ImageLaterality="RL"[n % 2], InstanceNumber=n)
        for n in range(8)
    ] + [store(textured(20 + n), Modality="MG", ViewPosition="MLO", ImageLaterality="RL"[n]) for n in range(2)]
    chest = [store(textured(30 + n), Modality="DX", ViewPosition="PA", InstanceNumber=n) for n in range(8)]
    lateral = store(textured(40), Modality="DX", ViewPosition="LL", InstanceNumber=99)

    hung = [picture.reason for picture in pictures_of(mammograms, budget=4).pictures]
    seen = pictures_of([*chest, lateral], budget=2)

    assert hung == ["view 1 of 4, R CC", "view 2 of 4, L CC", "view 3 of 4, R MLO", "view 4 of 4, L MLO"]
    assert seen.pictures[1].sop_instance_uid == lateral.sop_instance_uid
    assert seen.basis == "2 of 9 views"


def test_views_named_only_by_a_code_are_ordered_too(store: Any) -> None:
    def coded(seed: int, code: str) -> StoredInstance:
        view = Dataset()
        view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = code, "SCT", "a view"
        written: StoredInstance = store(textured(seed), Modality="DX", ViewCodeSequence=[view], InstanceNumber=seed)
        return written

    lateral, frontal = coded(1, "399173006"), coded(2, "272479007")

    assert [picture.reason for picture in pictures_of([lateral, frontal]).pictures] == [
        "view 1 of 2, PA",
        "view 2 of 2, LL",
    ]


def test_stills_sent_twice_do_not_use_up_the_budget(store: Any) -> None:
    stored = [store(textured(n // 2), Modality="XC", InstanceNumber=n) for n in range(16)]

    study = pictures_of(stored, budget=8)

    assert len(study.pictures) == 8
    assert study.basis == f"8 of {16 - len(study.left_out)} images"
    assert {left.reason for left in study.left_out} == {"duplicate"}
