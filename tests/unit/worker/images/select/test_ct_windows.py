from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import MultiFrameGrayscaleWordSecondaryCaptureImageStorage

from tests.unit.worker.images.studies import ct, positioned
from worker.images.decode.files import read
from worker.images.render.units import hounsfield_obstacle
from worker.images.select.ct_windows import is_sharp, windows_for
from worker.images.study import images_of

if TYPE_CHECKING:
    from worker.images.decode.header import Header

HOUNSFIELD = {"RescaleSlope": 1, "RescaleIntercept": -1024, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}
MAP = {"RescaleSlope": 1, "RescaleIntercept": 0, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}


@pytest.fixture
def header(store: Any) -> Any:
    def write(**elements: Any) -> Header:
        return read(store(np.zeros((64, 64), np.int16), **elements).path)

    return write


def names(header: Header, *parts: str, budget: int = 8) -> list[tuple[str, int]]:
    """Windows by name; the header's own has none."""
    return [(share.window.name if share.window else "", share.images) for share in windows_for(header, parts, budget)]


@pytest.mark.parametrize("unit", ["US", "ED", "EDW", "HU_MOD", "PCT", "MGML", "Z_EFF", "OD", "mg/ml"])
def test_values_of_another_rescale_type_are_not_shown_in_hounsfield_windows(header: Any, unit: str) -> None:
    values = header(**HOUNSFIELD, RescaleType=unit)

    assert names(values, "CHEST") == [("", 8)]
    assert hounsfield_obstacle(values).startswith("Rescale Type ")


@pytest.mark.parametrize("unit", ["HU", "hu ", None])
def test_hounsfield_units_are_declared_or_the_default(header: Any, unit: str | None) -> None:
    assert names(header(**HOUNSFIELD, RescaleType=unit), "CHEST") == [("mediastinum", 4), ("lung", 4)]


@pytest.mark.parametrize(
    ("elements", "obstacle"),
    [
        ({"RescaleIntercept": None}, "Rescale Intercept is missing"),
        ({"RescaleSlope": None}, "Rescale Slope is missing"),
        ({"RescaleSlope": 0}, "Rescale Slope is 0"),
        ({"RescaleSlope": None, "RescaleIntercept": None}, "Rescale Slope and Intercept are missing"),
        ({"MultienergyCTAcquisition": "YES"}, "Rescale Type is missing in a multi-energy image"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "EFF_ATOMIC_NUM"]}, "Image Type EFF_ATOMIC_NUM"),
        ({"ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "CBF"]}, "Image Type CBF"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "DE_IODINE_MAP"]}, "Image Type IODINE"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"], "SeriesDescription": "rCBF map"}, "Series Description RCBF"),
    ],
)
def test_incomplete_rescale_or_derived_quantity_is_named(header: Any, elements: dict[str, Any], obstacle: str) -> None:
    values = header(**{**HOUNSFIELD, **elements})

    assert hounsfield_obstacle(values) == obstacle
    assert names(values, "HEAD") == [("", 8)]


def test_slices_of_a_perfusion_study_are_in_hounsfield_units(header: Any) -> None:
    slices = header(
        **{**HOUNSFIELD, "ImageType": ["ORIGINAL", "PRIMARY", "PERFUSION", "NONE"], "SeriesDescription": "CBF"}
    )

    assert hounsfield_obstacle(slices) == ""


def test_colour_images_have_no_hounsfield_windows(header: Any) -> None:
    assert names(header(**HOUNSFIELD, PhotometricInterpretation="PALETTE COLOR"), "HEAD") == [("", 8)]


def test_real_world_unit_decides_if_no_rescale_type_does(header: Any) -> None:
    def mapped(code: str) -> Header:
        unit, mapping = Dataset(), Dataset()
        unit.CodeValue = code
        mapping.MeasurementUnitsCodeSequence = [unit]
        found: Header = header(**HOUNSFIELD, RealWorldValueMappingSequence=[mapping])
        return found

    assert hounsfield_obstacle(mapped("[hnsf'U]")) == ""
    assert hounsfield_obstacle(mapped("mg/ml")) == "Real World Value Mapping to another unit"


@pytest.mark.parametrize(
    "elements",
    [
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"SOPClassUID": MultiFrameGrayscaleWordSecondaryCaptureImageStorage},
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
    ],
)
def test_localizers_and_captures_have_their_own_window_without_a_reason(header: Any, elements: dict[str, Any]) -> None:
    picture = header(**{**HOUNSFIELD, **elements})

    assert names(picture, "CHEST") == [("", 8)]
    assert hounsfield_obstacle(picture) == ""


def test_unit_of_an_enhanced_object_is_read_from_its_frames(store: Any) -> None:
    transformation, shared = Dataset(), Dataset()
    transformation.RescaleSlope, transformation.RescaleIntercept, transformation.RescaleType = 1, 0, "MGML"
    shared.PixelValueTransformationSequence = [transformation]
    frames = [positioned((0, 0, 5 * place), [1, 0, 0, 0, 1, 0]) for place in range(4)]
    pixels = np.arange(4 * 64 * 64, dtype=np.uint16).reshape(4, 64, 64)
    stored = store(
        pixels,
        BodyPartExamined="CHEST",
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
    )

    assert all("window" not in image.transform for image in images_of([stored]).images)


def test_combined_body_parts_have_the_windows_of_each(header: Any) -> None:
    assert names(header(**HOUNSFIELD), "CHEST", "ABDOMEN") == [("soft tissue", 6), ("lung", 2)]
    assert names(header(**HOUNSFIELD), "HEAD", "NECK") == [("brain", 3), ("bone", 2), ("soft tissue", 3)]
    assert sum(count for _, count in names(header(**HOUNSFIELD), "HEAD", "CHEST", "SPINE", budget=5)) == 5
    assert names(header(**HOUNSFIELD), "CHEST", "ABDOMEN", budget=1) == [("soft tissue", 1)]


def test_lung_window_is_used_where_the_chest_lies(store: Any) -> None:
    shares = windows_for(read(ct(store, 1)[0].path), ["CHEST", "ABDOMEN"], 8)

    assert {share.window.name: share.extent for share in shares if share.window} == {
        "soft tissue": (0.0, 1.0),
        "lung": (pytest.approx(4 / 7), 1.0),
    }


@pytest.mark.parametrize(
    "kernel",
    [
        "B60f",
        "B70s",
        "B80f",
        "Hr60h",
        "Hr68",
        "H70h",
        "Br64f",
        "Bl57d",
        ["I70f", "3"],
        "BONE",
        "BONEPLUS",
        "BONE PLUS",
        "EDGE",
        "LUNG",
        "YC",
        "YD",
        "E",
        "FC30",
        "FC51",
        "FC81",
        "B_SHARP_C",
    ],
)
def test_sharp_kernels_are_recognised(header: Any, kernel: Any) -> None:
    assert is_sharp(header(ConvolutionKernel=kernel))


@pytest.mark.parametrize(
    "kernel",
    [
        "B20s",
        "B31f",
        "B45f",
        "Hr40h",
        "H31s",
        "Br40d",
        "STANDARD",
        "SOFT",
        "DETAIL",
        "B",
        "C",
        "UB",
        "FC08",
        "FC13",
        "FC64",
        "FC68",
        "FL01",
        "",
    ],
)
def test_soft_kernels_are_not_sharp(header: Any, kernel: str) -> None:
    assert not is_sharp(header(ConvolutionKernel=kernel))


def test_sharp_kernel_shows_bone_or_lung_instead_of_soft_tissue(header: Any) -> None:
    bone = header(**HOUNSFIELD, ConvolutionKernel="H60s")

    assert names(bone, "HEAD") == [("bone", 8)]
    assert names(bone, "CHEST") == [("lung", 6), ("bone", 2)]
    assert names(bone, "SPINE") == [("bone", 8)]


def test_unknown_body_part_keeps_the_window_of_the_header(header: Any) -> None:
    assert names(header(**HOUNSFIELD, WindowCenter=50, WindowWidth=350)) == [("", 8)]
    assert names(header(**HOUNSFIELD)) == [("soft tissue", 8)]


def test_slice_in_another_unit_than_its_volume_keeps_its_own_window(store: Any) -> None:
    slices = ct(store, 3, BodyPartExamined="HEAD")
    place = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, 20]}
    ramp = np.arange(4096, dtype=np.int16).reshape(64, 64)
    slices.append(store(ramp, **MAP, **place, RescaleType="MGML", BodyPartExamined="HEAD"))

    windows = {image.sop_instance_uid: image.transform.get("window") for image in images_of(slices).images}

    assert windows[slices[-1].sop_instance_uid] is None
    assert windows[slices[0].sop_instance_uid] in ("brain", "bone")
