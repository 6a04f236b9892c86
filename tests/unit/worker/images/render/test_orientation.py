"""Orientation: which side of the patient is at which side of the image, and what the report states if it is unknown."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    BreastTomosynthesisImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedXAImageStorage,
    NuclearMedicineImageStorage,
)

from tests.unit.worker.images.studies import positioned
from worker.images.decode.patient_axes import CONTRADICTORY, IMPOSSIBLE, MISSING, axes_of
from worker.images.render.orientation import _USUAL as USUAL
from worker.images.render.orientation import NO_BREAST, TWO_SIDES, WRONG_BREAST, WRONG_VIEW, Turn, best_turn, plane_of
from worker.images.study import images_of

if TYPE_CHECKING:
    from tests.unit.worker.images.conftest import Store
    from worker.images.study_images import RenderedImage, StudyImages

RADIOGRAPH, MAMMOGRAM = DigitalXRayImageStorageForPresentation, DigitalMammographyXRayImageStorageForPresentation
TURNS = [Turn(*flags) for flags in product((False, True), repeat=3)]
#: Volume of 6 x 7 x 8 voxels, x to the left, y to the back, z to the head; no two corners alike.
BODY = np.arange(6 * 7 * 8).reshape(6, 7, 8)


def marked() -> np.ndarray[Any, Any]:
    """A frontal image in the usual presentation: a bright disc at the upper right, a bar below."""
    y, x = np.mgrid[0:96, 0:80]
    image = 300 + 5 * x + 3 * y
    image[(x - 60) ** 2 + (y - 24) ** 2 < 100] = 3900
    image[80:86, 10:50] = 3000
    return image.astype(np.uint16)


def stored_as(picture: np.ndarray[Any, Any], turn: Turn) -> np.ndarray[Any, Any]:
    """The pixels whose *turn* is *picture*."""
    turned = picture[::-1] if turn.top_bottom else picture
    turned = turned[:, ::-1] if turn.left_right else turned
    return np.ascontiguousarray(turned.T if turn.transposed else turned)


def letters_before(turn: Turn, shown: tuple[str, str]) -> list[str]:
    """Patient Orientation of pixels that *turn* presents as *shown*."""
    opposite = dict(zip("LRAPHF", "RLPAFH", strict=True))
    row = "".join(opposite[letter] for letter in shown[0]) if turn.left_right else shown[0]
    column = "".join(opposite[letter] for letter in shown[1]) if turn.top_bottom else shown[1]
    return [column, row] if turn.transposed else [row, column]


def radiograph(store: Store, pixels: np.ndarray[Any, Any], **elements: Any) -> StudyImages:
    usual = {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "Modality": "DX",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
    }
    return images_of([store(pixels, WindowCenter=2048, WindowWidth=4096, **usual | elements)])


def only(study: StudyImages) -> RenderedImage:
    (image,) = study.images
    return image


@pytest.fixture
def usual(store: Store) -> np.ndarray[Any, Any]:
    return only(radiograph(store, marked(), PatientOrientation=["L", "F"])).pixels


@pytest.mark.parametrize("turn", TURNS, ids=lambda turn: turn.name)
def test_a_radiograph_stored_in_any_of_eight_ways_is_drawn_the_same(store: Store, usual: Any, turn: Turn) -> None:
    stated = letters_before(turn, ("L", "F"))
    image = only(radiograph(store, stored_as(marked(), turn), PatientOrientation=stated))

    assert np.array_equal(image.pixels, usual)
    assert image.orientation_problem == ""
    assert image.transform["orientation"] == {
        "source": "PatientOrientation",
        "from": "\\".join(stated),
        "to": "L\\F",
        "turn": turn.name,
    }


@pytest.mark.parametrize("turn", TURNS, ids=lambda turn: turn.name)
def test_rotations_are_named_clockwise(turn: Turn) -> None:
    image = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    quarters = {"none": 0, "rotate_90": -1, "rotate_180": 2, "rotate_270": 1}
    if turn.name in quarters:
        assert np.array_equal(turn.of_pixels(image), np.rot90(image, quarters[turn.name]))


@pytest.mark.parametrize("place", [(0, 1), (0, 2), (1, 2)])
@given(
    swap=st.booleans(),
    signs=st.tuples(st.sampled_from((1, -1)), st.sampled_from((1, -1))),
    tilt=st.tuples(*[st.floats(-0.25, 0.25)] * 3),
)
def test_every_signed_permutation_with_a_tilt_draws_the_same_section(
    place: tuple[int, int], swap: bool, signs: tuple[int, int], tilt: tuple[float, float, float]
) -> None:
    """All 48 signed permutations are those of rows and columns for each of three normals in both directions."""
    row, column = place[::-1] if swap else place
    rotation = rotated(*tilt)
    axes = axes_of((*rotation[:, row] * signs[0], *rotation[:, column] * signs[1]))
    assert axes

    (hidden,) = {0, 1, 2} - set(place)
    section = np.take(BODY, 3, axis=hidden)  # [first of place, second]
    stored = section if row == place[0] else section.T  # [row axis, column axis]
    stored = stored[:: signs[0], :: signs[1]].T  # [rows, columns]
    shown = best_turn(axes, USUAL[plane_of(axes.normal)]).of_pixels(stored.astype(np.int64))  # type: ignore[arg-type]

    x_to_y, x_to_z, y_to_z = BODY[:, :, 3].T, BODY[:, 3, ::-1].T, BODY[3, :, ::-1].T
    assert np.array_equal(shown, {2: x_to_y, 1: x_to_z, 0: y_to_z}[hidden])


def rotated(about_x: float, about_y: float, about_z: float) -> np.ndarray[Any, Any]:
    """Rotation matrix by three small angles."""
    matrix = np.eye(3)
    for (one, other), angle in zip(((1, 2), (0, 2), (0, 1)), (about_x, about_y, about_z), strict=True):
        turn = np.eye(3)
        turn[one, one] = turn[other, other] = np.cos(angle)
        turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def volume(store: Store, cosines: list[float], pixels: np.ndarray[Any, Any], **elements: Any) -> StudyImages:
    normal = np.cross(cosines[:3], cosines[3:])
    return images_of(
        [
            store(
                (pixels + number).astype(np.uint16),
                ImageOrientationPatient=cosines,
                ImagePositionPatient=list(5.0 * number * normal),
                InstanceNumber=number + 1,
                WindowCenter=2048,
                WindowWidth=4096,
                **elements,
            )
            for number in range(4)
        ],
        budget=3,
    )


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize(
    ("cosines", "turn"),
    [
        ([1, 0, 0, 0, 1, 0], Turn()),
        ([-1, 0, 0, 0, 1, 0], Turn(left_right=True)),  # rows to the right
        ([1, 0, 0, 0, -1, 0], Turn(top_bottom=True)),  # columns up
        ([-1, 0, 0, 0, -1, 0], Turn(left_right=True, top_bottom=True)),  # prone
        ([0, -1, 0, 1, 0, 0], Turn(transposed=True, top_bottom=True)),  # decubitus
        ([-1, 0, 0, 0, 0, -1], Turn(left_right=True)),  # reversed coronal
        ([1, 0, 0, 0, 0, 1], Turn(top_bottom=True)),  # feet above
        ([0, -1, 0, 0, 0, -1], Turn(left_right=True)),  # reversed sagittal
        ([-0.98, 0.17, 0.1, 0.17, 0.985, 0], Turn(left_right=True)),  # oblique in two directions
    ],
)
def test_slices_of_a_volume_are_drawn_the_usual_way(
    store: Store, modality: str, cosines: list[float], turn: Turn
) -> None:
    usual = only(images_of([store(marked(), WindowCenter=2048, WindowWidth=4096)])).pixels.astype(int)
    study = volume(store, cosines, stored_as(marked(), turn), Modality=modality)

    assert len(study.images) == 3
    assert {image.transform["orientation"]["turn"] for image in study.images} == {turn.name}
    assert all(np.abs(image.pixels - usual).max() <= 1 for image in study.images)
    assert not any(image.orientation_problem for image in study.images)


def test_slices_near_45_degrees_are_all_turned_the_same_way(store: Store) -> None:
    stored = []
    for number in range(6):
        angle = np.pi / 4 + (0.01 if number % 2 else -0.01)
        cosines = [np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0]
        stored.append(
            store(
                (marked() + number).astype(np.uint16),
                ImageOrientationPatient=[round(float(part), 6) for part in cosines],
                ImagePositionPatient=[0, 0, 5 * number],
                WindowCenter=2048,
                WindowWidth=4096,
            )
        )

    assert len({image.transform["orientation"]["turn"] for image in images_of(stored).images}) == 1


def test_a_mirrored_slice_within_a_usual_volume_is_turned_alone(store: Store) -> None:
    stored = [
        store(
            np.ascontiguousarray(marked()[:, ::sign]) + np.uint16(number),
            ImageOrientationPatient=[sign, 0, 0, 0, 1, 0],
            ImagePositionPatient=[0, 0, 5 * number],
            WindowCenter=2048,
            WindowWidth=4096,
        )
        for number, sign in enumerate((1, -1, 1))
    ]

    study = images_of(stored)
    assert [image.transform["orientation"]["turn"] for image in study.images] == ["none", "flip_horizontal", "none"]
    assert np.abs(study.images[0].pixels.astype(int) - study.images[1].pixels).max() <= 1


@pytest.mark.parametrize(("sop_class", "modality"), [(EnhancedCTImageStorage, "CT"), (EnhancedMRImageStorage, "MR")])
def test_each_frame_of_an_enhanced_object_is_turned_by_its_own_orientation(
    store: Store, sop_class: str, modality: str
) -> None:
    signs = (1, -1, 1, -1)
    frames = np.stack([marked()[:, ::sign] + np.uint16(9 * number) for number, sign in enumerate(signs)])
    groups = [positioned([0, 0, 5 * number], [sign, 0, 0, 0, 1, 0]) for number, sign in enumerate(signs)]
    windows = {"WindowCenter": 2048, "WindowWidth": 4096}
    study = images_of(
        [
            store(
                frames,
                SOPClassUID=sop_class,
                Modality=modality,
                PerFrameFunctionalGroupsSequence=Sequence(groups),
                **windows,
            )
        ]
    )

    turns = [image.transform["orientation"]["turn"] for image in study.images]
    assert turns == ["none", "flip_horizontal", "none", "flip_horizontal"]
    assert all(np.abs(image.pixels.astype(int) - study.images[0].pixels).max() <= 3 for image in study.images)


def test_the_orientation_shared_by_all_frames_is_used(store: Store) -> None:
    shared, plane = Dataset(), Dataset()
    plane.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
    shared.PlaneOrientationSequence = [plane]
    study = images_of(
        [store(np.stack([marked()] * 2), SOPClassUID=EnhancedCTImageStorage, SharedFunctionalGroupsSequence=[shared])]
    )

    assert study.images[0].transform["orientation"]["turn"] == "flip_horizontal"


def test_a_nuclear_medicine_frame_is_turned_by_the_orientation_of_its_detector(store: Store) -> None:
    front, behind = Dataset(), Dataset()
    front.ImageOrientationPatient, behind.ImageOrientationPatient = [1, 0, 0, 0, 0, -1], [-1, 0, 0, 0, 0, -1]
    study = images_of(
        [
            store(
                np.stack([marked(), marked() // 2]),
                SOPClassUID=NuclearMedicineImageStorage,
                Modality="NM",
                DetectorInformationSequence=[front, behind],
                DetectorVector=[1, 2],
            )
        ]
    )

    assert [image.transform["orientation"]["turn"] for image in study.images] == ["none", "flip_horizontal"]


def test_oblong_pixels_become_square_before_a_quarter_turn(store: Store) -> None:
    image = only(radiograph(store, marked(), PatientOrientation=["F", "L"], PixelSpacing=[2, 1]))

    assert image.pixels.shape == (80, 192, 3)


def test_a_lateral_view_has_the_front_at_the_left(store: Store) -> None:
    image = only(radiograph(store, marked(), PatientOrientation=["A", "F"], ViewPosition="LL"))

    assert image.transform["orientation"]["to"] == "P\\F"


@pytest.mark.parametrize(
    ("stated", "shown"), [("LP", "LP"), ("PL", "PL"), ("LA", "LA"), ("AL", "AL"), ("RA", "LP"), ("PR", "AL")]
)
def test_an_oblique_view_faces_the_patient(store: Store, stated: str, shown: str) -> None:
    image = only(radiograph(store, marked(), PatientOrientation=[stated, "F"], ViewPosition="RLO"))

    assert (image.transform["orientation"]["to"], image.orientation_problem) == (f"{shown}\\F", "")


def test_the_orientation_of_a_frame_of_an_enhanced_angiogram_is_used(store: Store) -> None:
    mirrored, frame = Dataset(), Dataset()
    mirrored.PatientOrientation = ["R", "F"]
    frame.PatientOrientationInFrameSequence = [mirrored]
    image = only(
        radiograph(
            store,
            marked()[None],
            SOPClassUID=EnhancedXAImageStorage,
            Modality="XA",
            NumberOfFrames=1,
            PerFrameFunctionalGroupsSequence=[frame],
        )
    )

    assert image.transform["orientation"]["turn"] == "flip_horizontal"


@pytest.mark.parametrize(("stated", "turn"), [(["R", "H"], "flip_horizontal"), (["L", "H"], "none")])
def test_a_hand_keeps_its_fingers_where_they_are(store: Store, stated: list[str], turn: str) -> None:
    image = only(radiograph(store, marked(), PatientOrientation=stated, BodyPartExamined="HAND"))

    assert image.transform["orientation"]["turn"] == turn


@pytest.mark.parametrize(
    ("side", "view", "stated", "shown"),
    [
        ("R", "CC", ("P", "L"), "P\\L"),
        ("R", "CC", ("A", "L"), "P\\L"),
        ("R", "CC", ("A", "R"), "P\\L"),
        ("L", "CC", ("P", "R"), "A\\R"),
        ("L", "CC", ("A", "R"), "A\\R"),
        ("L", "CC", ("L", "P"), "A\\R"),
        ("R", "MLO", ("P", "FL"), "P\\FL"),
        ("R", "MLO", ("A", "FL"), "P\\FL"),
        ("L", "MLO", ("A", "HL"), "A\\FR"),
        ("L", "MLO", ("P", "F"), "A\\F"),
        ("L", "ML", ("A", "F"), "A\\F"),
    ],
)
def test_a_mammogram_hangs_by_side_and_view(
    store: Store, side: str, view: str, stated: tuple[str, str], shown: str
) -> None:
    image = only(mammogram(store, PatientOrientation=list(stated), ImageLaterality=side, ViewPosition=view))

    assert (image.transform["orientation"]["to"], image.orientation_problem) == (shown, "")


def mammogram(store: Store, **elements: Any) -> StudyImages:
    form = {"SOPClassUID": MAMMOGRAM, "Modality": "MG", "BodyPartExamined": "BREAST"}
    return radiograph(store, marked(), **form | elements)


def test_a_tomosynthesis_hangs_by_frame_laterality_and_plane(store: Store) -> None:
    shared, plane, anatomy = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = [0, -1, 0, 0.707107, 0, -0.707107]  # front, and inwards to the feet
    anatomy.FrameLaterality = "R"
    shared.PlaneOrientationSequence, shared.FrameAnatomySequence = [plane], [anatomy]
    study = images_of(
        [
            store(
                np.stack([marked()] * 2),
                SOPClassUID=BreastTomosynthesisImageStorage,
                Modality="MG",
                SharedFunctionalGroupsSequence=[shared],
            )
        ]
    )

    assert study.images[0].transform["orientation"]["turn"] == "flip_horizontal"
    assert study.images[0].orientation_problem == ""


@pytest.mark.parametrize(
    ("elements", "problem"),
    [
        ({}, MISSING),
        ({"PatientOrientation": ["", ""]}, MISSING),
        ({"FieldOfViewHorizontalFlip": "YES", "FieldOfViewRotation": "0"}, MISSING),
        ({"PatientOrientation": ["L", "R"]}, IMPOSSIBLE),
        ({"PatientOrientation": ["L", "L"]}, IMPOSSIBLE),
        ({"PatientOrientation": ["LF", "L"]}, IMPOSSIBLE),
        ({"PatientOrientation": ["LR", "F"]}, IMPOSSIBLE),
        ({"PatientOrientation": ["X", "F"]}, IMPOSSIBLE),
        ({"PatientOrientation": "L"}, IMPOSSIBLE),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, IMPOSSIBLE),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, IMPOSSIBLE),
        ({"ImageOrientationPatient": [1, 0, 0, 0.5, 0.866, 0]}, IMPOSSIBLE),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 0, -2]}, IMPOSSIBLE),
        ({"ImageOrientationPatient": [1, 0, 0]}, IMPOSSIBLE),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1], "PatientOrientation": ["R", "F"]}, CONTRADICTORY),
        ({"PatientOrientation": ["A", "F"]}, WRONG_VIEW),
        ({"PatientOrientation": ["P", "L"]}, WRONG_VIEW),
        ({"PatientOrientation": ["L", "P"], "BodyPartExamined": "FOOT"}, ""),
        ({"PatientOrientation": ["P", "L"], "Modality": "XA", "BodyPartExamined": "HEAD"}, WRONG_VIEW),
        ({"PatientOrientation": ["L", "F"], "ViewPosition": "LL"}, WRONG_VIEW),
        ({"PatientOrientation": ["L", "F"], "ImageLaterality": "R", "Laterality": "L"}, TWO_SIDES),
        ({"PatientOrientation": ["L", "F"], "ImageLaterality": "U", "Laterality": "L"}, ""),
        ({"ViewPosition": "LL"}, ""),
        ({"PatientOrientation": ["L", "F"], "FieldOfViewHorizontalFlip": "YES"}, ""),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1], "PatientOrientation": ["L", "F"]}, ""),
    ],
)
def test_missing_and_contradictory_orientations_are_named(store: Store, elements: Any, problem: str) -> None:
    image = only(radiograph(store, marked(), **elements))

    assert image.orientation_problem == problem
    assert image.transform.get("orientation", {}).get("problem", "") == problem


@pytest.mark.parametrize(
    ("elements", "problem"),
    [
        ({"ImageLaterality": "L"}, MISSING),
        ({"PatientOrientation": ["A", "R"]}, NO_BREAST),
        ({"PatientOrientation": ["A", "R"], "ImageLaterality": "L", "Laterality": "R"}, TWO_SIDES),
        ({"PatientOrientation": ["L", "F"], "ImageLaterality": "L"}, WRONG_VIEW),
        ({"PatientOrientation": ["A", "FL"], "ImageLaterality": "L", "ViewPosition": "MLO"}, WRONG_BREAST),
        ({"PatientOrientation": ["P", "FR"], "ImageLaterality": "R", "ViewPosition": "MLO"}, WRONG_BREAST),
    ],
)
def test_a_mammogram_whose_side_is_uncertain_is_named(store: Store, elements: Any, problem: str) -> None:
    assert only(mammogram(store, **elements)).orientation_problem == problem


@pytest.mark.parametrize("modality", ["OP", "XC", "ES", "US", "SM"])
def test_photographs_and_ultrasound_are_drawn_as_stored(store: Store, modality: str) -> None:
    image = only(
        images_of(
            [
                store(
                    np.stack([marked() >> 4] * 3, axis=-1).astype(np.uint8),
                    Modality=modality,
                    PatientOrientation=["R", "H"],
                )
            ]
        )
    )

    assert "orientation" not in image.transform
    assert image.orientation_problem == ""


@pytest.mark.parametrize(
    ("stated", "turn"), [(["RT", "CD"], "flip_horizontal"), (["V", "CD"], "none"), (["M", "DI"], "none")]
)
def test_letters_of_quadrupeds_are_read(store: Store, stated: list[str], turn: str) -> None:
    image = only(
        radiograph(store, marked(), PatientOrientation=stated, AnatomicalOrientationType="QUADRUPED", ViewPosition="")
    )

    assert image.transform["orientation"].get("turn", "none") == turn
    assert image.orientation_problem == (IMPOSSIBLE if stated == ["M", "DI"] else "")
