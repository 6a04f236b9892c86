from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
)

from tests.unit.worker.images.studies import AXIAL, CORONAL, ct, places, positioned, textured
from worker.images.study import StoredInstance, images_of


def test_slices_are_spread_by_position_not_by_instance_number(store: Any) -> None:
    stored = ct(store, 40)

    study = images_of(stored[::2] + stored[1::2], budget=5)

    assert places(study, stored) == [4, 12, 20, 27, 35]
    assert study.basis == "5 of 40 slices of series 3"
    assert study.images[0].reason.startswith("slice 5 of 40 of series 3")


def test_a_chest_ct_is_shown_in_mediastinal_and_lung_windows(store: Any) -> None:
    study = images_of(ct(store, 40, BodyPartExamined="CHEST"), budget=8)

    windows = [image.transform["window"] for image in study.images]
    assert windows == ["mediastinum"] * 4 + ["lung"] * 4
    assert study.basis == "4 of 40 slices of series 3"
    assert (study.modality, study.body_part) == ("CT", "CHEST")


def test_orientations_in_one_series_are_separate_volumes_and_the_axial_one_is_shown(store: Any) -> None:
    axial = ct(store, 6)
    coronal = [
        store(textured(50 + n), ImageOrientationPatient=CORONAL, ImagePositionPatient=[0, 5.0 * n, 0]) for n in range(9)
    ]

    study = images_of(coronal + axial)

    assert study.basis == "6 of 6 slices of series 3; 9 further slices of other volumes not shown"


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

    study = images_of(stored[::-1])

    assert study.basis == "6 of 6 slices of series 3"
    assert [image.sop_instance_uid for image in study.images] == [item.sop_instance_uid for item in stored]


def test_phases_at_one_place_are_represented_by_the_first_acquired(store: Any) -> None:
    early, late = ct(store, 5, AcquisitionNumber=1), ct(store, 5, AcquisitionNumber=2)

    study = images_of(late + early)

    assert study.basis == "5 of 5 slices of series 3; 5 further slices at the same positions not shown"
    assert {image.sop_instance_uid for image in study.images} == {item.sop_instance_uid for item in early}


@pytest.mark.parametrize("shift", [0.005, 0.3])
def test_two_acquisitions_of_the_same_part_are_not_mixed(store: Any, shift: float) -> None:
    early = ct(store, 20, AcquisitionNumber=1)
    late = [
        store(
            textured(100 + number),
            ImageOrientationPatient=AXIAL,
            ImagePositionPatient=[0, 0, 5.0 * number + shift],
            AcquisitionNumber=2,
        )
        for number in range(20)
    ]

    study = images_of(early + late)

    assert {image.sop_instance_uid for image in study.images} <= {item.sop_instance_uid for item in early}
    assert study.basis == "8 of 20 slices of series 3; 20 further slices of other volumes not shown"


def test_a_volume_acquired_in_two_goes_stays_one(store: Any) -> None:
    stored = [store_slice(store, number, AcquisitionNumber=1 + number // 10) for number in range(20)]

    assert images_of(stored).basis == "8 of 20 slices of series 3"


def test_a_slice_that_does_not_say_where_it_lies_leaves_the_others_in_their_order(store: Any) -> None:
    stored = ct(store, 40)
    lost = store(textured(99), ImageOrientationPatient=AXIAL, InstanceNumber=7)

    study = images_of([lost, *stored[::2], *stored[1::2]], budget=5)

    assert places(study, stored) == [4, 12, 20, 27, 35]


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

    study = images_of(stored, budget=6)

    assert study.basis == "6 of 30 slices of series 2, 4, 7"


def test_the_stacks_of_one_enhanced_mr_object_are_all_shown(store: Any) -> None:
    frames = [
        positioned([5.0 * n * (axis == side) for axis in range(3)], orientation)
        for side, orientation in ((2, AXIAL), (1, CORONAL), (0, [0, 1, 0, 0, 0, -1]))
        for n in range(6)
    ]
    pixels = np.stack([textured(number) for number in range(18)])
    stored = store(pixels, SOPClassUID=EnhancedMRImageStorage, Modality="MR", PerFrameFunctionalGroupsSequence=frames)

    study = images_of([stored], budget=6)

    assert [image.frame // 6 for image in study.images] == [0, 0, 1, 1, 2, 2]
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

    study = images_of([stored])

    assert study.body_part == "CHEST"
    assert {image.transform["window"] for image in study.images} == {"mediastinum", "lung"}


def test_a_mosaic_is_shown_only_where_there_are_no_slices(store: Any) -> None:
    def mr(seed: int, *types: str) -> StoredInstance:
        place = {"ImageOrientationPatient": AXIAL, "ImagePositionPatient": [0, 0, 5.0 * seed]}
        kinds = ["ORIGINAL", "PRIMARY", *types]
        written: StoredInstance = store(
            textured(seed), SOPClassUID=MRImageStorage, Modality="MR", ImageType=kinds, **place
        )
        return written

    slices, mosaics = [mr(n, "M") for n in range(4)], [mr(n, "M", "MOSAIC") for n in range(5, 9)]

    assert places(images_of(slices + mosaics), slices) == [0, 1, 2, 3]
    assert len(images_of(mosaics).images) == 4


def test_frames_of_an_enhanced_object_are_ordered_by_their_own_positions(store: Any) -> None:
    order = [3, 0, 4, 1, 2]
    frames = [positioned([0, 0, 5.0 * place], AXIAL) for place in order]
    pixels = np.stack([textured(place) for place in order])
    stored = store(pixels, SOPClassUID=EnhancedMRImageStorage, Modality="MR", PerFrameFunctionalGroupsSequence=frames)

    study = images_of([stored])

    assert [image.frame for image in study.images] == [1, 3, 4, 0, 2]


def test_a_damaged_slice_is_left_out_and_another_takes_its_place(store: Any) -> None:
    stored = ct(store, 20)
    first = images_of(stored, budget=4)
    damaged = next(item for item in stored if item.sop_instance_uid == first.images[1].sop_instance_uid)
    damaged.path.write_bytes(damaged.path.read_bytes()[:-500])

    study = images_of(stored, budget=4)

    assert len(study.images) == 4
    assert [(left.sop_instance_uid, left.reason) for left in study.left_out] == [
        (damaged.sop_instance_uid, "truncated")
    ]


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
    study = images_of([store_slice(store, n, **elements) for n in range(6)])

    assert study.basis == "6 of 6 slices of series 3"
    assert "in acquisition order" in study.images[0].reason


def store_slice(store: Any, number: int, **elements: Any) -> StoredInstance:
    usual = {
        "ImageOrientationPatient": AXIAL,
        "ImagePositionPatient": [0, 0, 5.0 * number],
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }
    written: StoredInstance = store(textured(number), InstanceNumber=number, **usual | elements)
    return written


def test_slices_without_a_position_among_others_are_counted(store: Any) -> None:
    stored = [store_slice(store, n, **({} if n % 2 else {"ImagePositionPatient": None})) for n in range(8)]

    assert images_of(stored).basis == "4 of 4 slices of series 3; 4 further slices of other volumes not shown"


def test_a_full_coronal_volume_comes_before_a_remnant_of_an_axial_one(store: Any) -> None:
    coronal = [
        store_slice(store, n, ImageOrientationPatient=CORONAL, ImagePositionPatient=[0, 5.0 * n, 0]) for n in range(20)
    ]

    assert images_of(ct(store, 3) + coronal).basis.startswith("8 of 20 slices of series 3; 3 further")


def test_derived_slices_are_used_where_there_are_too_few_primary_ones_and_said_to_be_derived(store: Any) -> None:
    derived = [store_slice(store, n, ImageType=["DERIVED", "PRIMARY", "AXIAL"]) for n in range(9)]
    primary = store_slice(store, 50)

    study = images_of([*derived, primary])

    assert study.basis == "7 of 9 slices of series 3 (derived images)"
    assert [left.detail for left in study.left_out] == ["too few primary images exist, and derived images were used"]
