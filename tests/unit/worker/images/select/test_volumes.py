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


def test_slices_are_sampled_by_position_not_by_instance_number(store: Any) -> None:
    stored = ct(store, 40)

    study = images_of(stored[::2] + stored[1::2], budget=5)

    assert places(study, stored) == [4, 12, 20, 27, 35]
    assert study.basis == "5 of 40 slices of series 3"
    assert study.images[0].reason.startswith("slice 5 of 40 of series 3")


def test_chest_ct_uses_mediastinal_and_lung_windows(store: Any) -> None:
    study = images_of(ct(store, 40, BodyPartExamined="CHEST"), budget=8)

    windows = [image.transform["window"] for image in study.images]
    assert windows == ["mediastinum"] * 4 + ["lung"] * 4
    assert study.basis == "4 of 40 slices of series 3"
    assert (study.modality, study.body_part) == ("CT", "CHEST")


def test_axial_orientation_of_a_series_is_a_volume_of_its_own(store: Any) -> None:
    axial = ct(store, 6)
    coronal = [
        store(textured(50 + n), ImageOrientationPatient=CORONAL, ImagePositionPatient=[0, 5.0 * n, 0]) for n in range(9)
    ]

    study = images_of(coronal + axial)

    assert study.basis == "6 of 6 slices of series 3; 9 further slices of other volumes not shown"


def test_nearly_parallel_or_reversed_slices_are_one_volume(store: Any) -> None:
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


def test_first_phase_represents_those_at_one_position(store: Any) -> None:
    early, late = ct(store, 5, AcquisitionNumber=1), ct(store, 5, AcquisitionNumber=2)

    study = images_of(late + early)

    assert study.basis == "5 of 5 slices of series 3; 5 further slices at the same positions not shown"
    assert {image.sop_instance_uid for image in study.images} == {item.sop_instance_uid for item in early}


@pytest.mark.parametrize("shift", [0.005, 0.3])
def test_two_acquisitions_of_the_same_range_are_not_mixed(store: Any, shift: float) -> None:
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


def test_volume_of_two_acquisitions_stays_one(store: Any) -> None:
    stored = [store_slice(store, number, AcquisitionNumber=1 + number // 10) for number in range(20)]

    assert images_of(stored).basis == "8 of 20 slices of series 3"


def test_slice_without_position_leaves_the_others_in_order(store: Any) -> None:
    stored = ct(store, 40)
    lost = store(textured(99), ImageOrientationPatient=AXIAL, InstanceNumber=7)

    study = images_of([lost, *stored[::2], *stored[1::2]], budget=5)

    assert places(study, stored) == [4, 12, 20, 27, 35]


def test_mr_contrasts_share_the_budget(store: Any) -> None:
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


def test_all_stacks_of_an_enhanced_mr_object_are_selected(store: Any) -> None:
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


def test_enhanced_ct_uses_the_windows_of_its_body_part(store: Any) -> None:
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


def test_mosaic_is_used_only_without_slices(store: Any) -> None:
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


def test_frames_of_an_enhanced_object_are_ordered_by_position(store: Any) -> None:
    order = [3, 0, 4, 1, 2]
    frames = [positioned([0, 0, 5.0 * place], AXIAL) for place in order]
    pixels = np.stack([textured(place) for place in order])
    stored = store(pixels, SOPClassUID=EnhancedMRImageStorage, Modality="MR", PerFrameFunctionalGroupsSequence=frames)

    study = images_of([stored])

    assert [image.frame for image in study.images] == [1, 3, 4, 0, 2]


def test_damaged_slice_is_replaced_by_another(store: Any) -> None:
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
def test_slices_at_one_position_are_kept_in_acquisition_order(store: Any, elements: dict[str, Any]) -> None:
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


def test_full_coronal_volume_precedes_an_axial_remnant(store: Any) -> None:
    coronal = [
        store_slice(store, n, ImageOrientationPatient=CORONAL, ImagePositionPatient=[0, 5.0 * n, 0]) for n in range(20)
    ]

    assert images_of(ct(store, 3) + coronal).basis.startswith("8 of 20 slices of series 3; 3 further")


def test_derived_slices_replace_too_few_primary_ones(store: Any) -> None:
    derived = [store_slice(store, n, ImageType=["DERIVED", "PRIMARY", "AXIAL"]) for n in range(9)]
    primary = store_slice(store, 50)

    study = images_of([*derived, primary])

    assert study.basis == "7 of 9 slices of series 3 (derived images)"
    assert [left.detail for left in study.left_out] == ["too few primary images exist, and derived images were used"]
