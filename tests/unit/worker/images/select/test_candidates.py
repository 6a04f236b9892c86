from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    JPEGLSLossless,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from db.errors import NotReportable
from tests.unit.worker.images.studies import AXIAL, CORONAL, ct, textured
from worker.images.select.sampling import evenly
from worker.images.study import StoredInstance, images_of

if TYPE_CHECKING:
    from pathlib import Path


def test_localizer_is_used_only_without_a_volume(store: Any) -> None:
    scout = store(textured(99), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])

    study = images_of([scout, *ct(store, 6)])
    alone = images_of([scout])

    assert scout.sop_instance_uid not in {image.sop_instance_uid for image in study.images}
    assert [left.sop_instance_uid for left in study.left_out] == [scout.sop_instance_uid]
    assert alone.basis.endswith("(only localizers were received)")


def test_screen_save_is_used_only_alone(store: Any) -> None:
    save = store(textured(5), SOPClassUID=SecondaryCaptureImageStorage, ImageType=["DERIVED", "SECONDARY"])

    assert save.sop_instance_uid in {left.sop_instance_uid for left in images_of([save, *ct(store, 4)]).left_out}
    assert len(images_of([save]).images) == 1


def test_frontal_precedes_lateral_and_processing_copies_are_dropped(store: Any) -> None:
    def view(name: str, seed: int, intent: str = "FOR PRESENTATION") -> StoredInstance:
        kind = DigitalXRayImageStorageForPresentation
        written: StoredInstance = store(
            textured(seed), SOPClassUID=kind, Modality="DX", ViewPosition=name, PresentationIntentType=intent
        )
        return written

    lateral, raw, frontal = view("LL", 1), view("PA", 2, "FOR PROCESSING"), view("PA", 3)
    study = images_of([lateral, raw, frontal])

    assert [image.sop_instance_uid for image in study.images] == [
        frontal.sop_instance_uid,
        lateral.sop_instance_uid,
    ]
    assert study.basis == "2 of 2 views"


def test_mammograms_are_ordered_as_the_four_views(store: Any) -> None:
    wanted = [("R", "CC"), ("L", "CC"), ("R", "MLO"), ("L", "MLO")]
    stored = {
        pair: store(textured(n), Modality="MG", ImageLaterality=pair[0], ViewPosition=pair[1])
        for n, pair in enumerate(reversed(wanted))
    }

    study = images_of(list(stored.values()))

    assert [p.sop_instance_uid for p in study.images] == [stored[pair].sop_instance_uid for pair in wanted]


def test_cine_run_is_sampled_evenly(store: Any) -> None:
    run = np.stack([textured(n).astype(np.uint16) for n in range(30)])
    stored = store(run, SOPClassUID=UltrasoundMultiFrameImageStorage, Modality="US")

    study = images_of([stored], budget=4)

    assert [image.frame for image in study.images] == [3, 11, 18, 26]
    assert study.basis == "4 of 30 frames"


def test_duplicate_still_is_used_once(store: Any) -> None:
    study = images_of([store(textured(1), Modality="XC"), store(textured(1), Modality="XC")])

    assert len(study.images) == 1
    assert [left.reason for left in study.left_out] == ["duplicate"]


def test_run_with_a_damaged_frame_is_used_without_it(store: Any) -> None:
    run = np.stack([textured(n).astype(np.uint16) for n in range(4)])
    stored = store(run, SOPClassUID=UltrasoundMultiFrameImageStorage, Modality="US", syntax=JPEGLSLossless)
    content = stored.path.read_bytes()
    second = content.index(b"\xff\xd8", content.index(b"\xff\xd9"))
    stored.path.write_bytes(content[:second] + b"\0\0" + content[second + 2 :])

    study = images_of([stored])

    assert [image.frame for image in study.images] == [0, 2, 3]
    assert [(left.frame, left.reason) for left in study.left_out] == [(1, "undecodable")]


def test_study_without_images_is_not_reportable(tmp_path: Path) -> None:
    (tmp_path / "note").write_bytes(b"no DICOM at all" * 20)

    with pytest.raises(NotReportable, match="^no_images"):
        images_of([])
    with pytest.raises(NotReportable, match="^not_dicom"):
        images_of([StoredInstance(tmp_path / "note", "1.2")])


@pytest.mark.parametrize(
    ("total", "count", "expected"), [(1, 8, [0]), (3, 8, [0, 1, 2]), (11, 1, [5]), (101, 3, [10, 50, 90])]
)
def test_even_sampling_trims_the_ends_and_never_repeats(total: int, count: int, expected: list[int]) -> None:
    assert evenly(total, count) == expected


def test_bone_survey_is_not_a_localizer(store: Any) -> None:
    survey = ct(store, 12, SeriesDescription="Bone Survey 2.0")
    reformatted = store(textured(99), ImageType=["DERIVED", "PRIMARY", "MPR"])

    assert images_of([*survey, reformatted]).basis == "8 of 12 slices of series 3"


def test_short_series_described_as_scout_is_a_localizer(store: Any) -> None:
    scouts = [
        store(
            textured(90 + n),
            SeriesDescription="3-plane loc",
            SeriesInstanceUID="1.2.9",
            ImageOrientationPatient=orientation,
        )
        for n, orientation in enumerate((AXIAL, CORONAL, [0, 1, 0, 0, 0, -1]))
    ]

    study = images_of([*scouts, *ct(store, 4)])

    assert study.basis == "4 of 4 slices of series 3"
    assert {left.detail for left in study.left_out} == {"better images than localizers exist"}


def test_each_modality_uses_its_best_tier(store: Any) -> None:
    mr = [
        store(textured(70 + n), SOPClassUID=MRImageStorage, Modality="MR", ImageType=["DERIVED", "PRIMARY"])
        for n in range(3)
    ]
    save = store(textured(5), SOPClassUID=SecondaryCaptureImageStorage, Modality="OT")

    study = images_of([*ct(store, 6), *mr, save], budget=6)

    assert study.basis == "CT: 3 of 6 slices of series 3; MR: 3 of 3 slices of series 3 (derived images)"


def test_repeated_views_do_not_displace_others(store: Any) -> None:
    mammograms = [
        store(textured(n), Modality="MG", ViewPosition="CC", ImageLaterality="RL"[n % 2], InstanceNumber=n)
        for n in range(8)
    ] + [store(textured(20 + n), Modality="MG", ViewPosition="MLO", ImageLaterality="RL"[n]) for n in range(2)]
    chest = [store(textured(30 + n), Modality="DX", ViewPosition="PA", InstanceNumber=n) for n in range(8)]
    lateral = store(textured(40), Modality="DX", ViewPosition="LL", InstanceNumber=99)

    hung = [image.reason for image in images_of(mammograms, budget=4).images]
    study = images_of([*chest, lateral], budget=2)

    assert hung == ["view 1 of 4, R CC", "view 2 of 4, L CC", "view 3 of 4, R MLO", "view 4 of 4, L MLO"]
    assert study.images[1].sop_instance_uid == lateral.sop_instance_uid
    assert study.basis == "2 of 9 views"


def test_views_with_only_a_code_are_ordered(store: Any) -> None:
    def coded(seed: int, code: str) -> StoredInstance:
        view = Dataset()
        view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning = code, "SCT", "a view"
        written: StoredInstance = store(textured(seed), Modality="DX", ViewCodeSequence=[view], InstanceNumber=seed)
        return written

    lateral, frontal = coded(1, "399173006"), coded(2, "272479007")

    assert [image.reason for image in images_of([lateral, frontal]).images] == [
        "view 1 of 2, PA",
        "view 2 of 2, LL",
    ]


def test_duplicate_stills_do_not_use_up_the_budget(store: Any) -> None:
    stored = [store(textured(n // 2), Modality="XC", InstanceNumber=n) for n in range(16)]

    study = images_of(stored, budget=8)

    assert len(study.images) == 8
    assert study.basis == f"8 of {16 - len(study.left_out)} images"
    assert {left.reason for left in study.left_out} == {"duplicate"}
