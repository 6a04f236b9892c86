from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import BreastTomosynthesisImageStorage, MRImageStorage

from tests.unit.worker.images.studies import AXIAL, positioned
from worker.images.study import images_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.images.study import StoredInstance

Y, X = np.mgrid[0:96, 0:96]
CT = {"RescaleSlope": 1, "RescaleIntercept": -1024, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}
TOMOSYNTHESIS = {"SOPClassUID": BreastTomosynthesisImageStorage, "Modality": "MG"}


def body(radius: float) -> npt.NDArray[np.int16]:
    """Soft tissue in air, with structure."""
    inside = radius**2 > (Y - 48) ** 2 + (X - 48) ** 2
    return np.where(inside, 1064 + 40 * np.sin(X / 3), 24).astype(np.int16)


def volume(store: Any, radii: list[float], **elements: Any) -> list[StoredInstance]:
    return [
        store(body(radius), ImageOrientationPatient=AXIAL, ImagePositionPatient=[0, 0, 5 * place], **elements)
        for place, radius in enumerate(radii)
    ]


@pytest.mark.parametrize("part", ["HEAD", "CHEST"])
def test_slices_of_a_volume_have_the_same_scale_in_all_windows(store: Any, part: str) -> None:
    images = images_of(volume(store, [20, 30, 36, 34, 32, 25], **CT, BodyPartExamined=part)).images

    assert len(images) >= 6
    assert len({image.transform["window"] for image in images}) == 2
    # The largest slice is selected, and gives the box.
    assert {tuple(image.transform["crop"]) for image in images} == {(13, 13, 84, 84)}


@pytest.mark.parametrize(
    ("elements", "laterality", "view"),
    [
        ({"ImageLaterality": "R", "ViewPosition": "PA"}, "R", "PA"),
        ({"Laterality": "L"}, "L", ""),
        ({"ImageLaterality": "R", "Laterality": "L"}, "B", ""),
        ({"ImageLaterality": "U"}, "", ""),
        ({}, "", ""),
    ],
)
def test_image_keeps_the_side_and_view_of_its_header(
    store: Any, elements: dict[str, str], laterality: str, view: str
) -> None:
    (image,) = images_of([store(body(30), **elements)]).images

    assert (image.laterality, image.view) == (laterality, view)


def test_volumes_are_cropped_independently(store: Any) -> None:
    mr = {"SOPClassUID": MRImageStorage, "Modality": "MR", "WindowCenter": 1000, "WindowWidth": 1500}
    small = volume(store, [25, 24, 23], **mr, SeriesInstanceUID="1.2.4", SeriesNumber=4)
    large = volume(store, [36, 36.5, 35], **mr)

    crops = {tuple(image.transform["crop"]) for image in images_of([*small, *large]).images}

    assert len(crops) == 2


def frames() -> npt.NDArray[np.uint16]:
    """Frames of one object, some with a bright lesion."""
    stack = np.stack([1000 + 300 * np.sin(X / 9 + place) * np.cos(Y / 7) for place in range(8)])
    stack[3:5, 20:40, 20:40] = 3500
    return stack.astype(np.uint16)


def test_frames_without_a_window_share_one(store: Any) -> None:
    images = images_of([store(frames(), **TOMOSYNTHESIS)]).images

    assert len(images) == 8
    assert {image.transform["voi"] for image in images} == {"percentiles 0.5 to 99.5 of the stack"}
    assert len({(image.transform["center"], image.transform["width"]) for image in images}) == 1
    # The same tissue is equally bright in all frames, with and without a lesion.
    brightness = [float(np.median(image.pixels[48:])) for image in images]
    assert max(brightness) - min(brightness) < 40


def test_slices_without_a_window_share_one(store: Any) -> None:
    mr = {"SOPClassUID": MRImageStorage, "Modality": "MR"}
    windows = [
        (image.transform["center"], image.transform["width"])
        for image in images_of(volume(store, [20, 30, 36, 32], **mr)).images
    ]

    assert len(windows) == 4
    assert len(set(windows)) == 1


def test_frame_that_its_window_hides_keeps_the_window_of_the_stack(store: Any) -> None:
    stack = frames()
    stack[0] = np.random.default_rng(1).integers(0, 8, (96, 96))
    voi, group = Dataset(), Dataset()
    voi.WindowCenter, voi.WindowWidth = 1500, 2000
    group.FrameVOILUTSequence = [voi]

    images = images_of([store(stack, **TOMOSYNTHESIS, SharedFunctionalGroupsSequence=[group])]).images

    assert {(image.transform["center"], image.transform["width"]) for image in images} == {(1500.0, 2000.0)}
    assert images[0].pixels.max() == 0


def test_equal_frames_of_two_volumes_are_duplicates_whatever_their_stack(store: Any) -> None:
    mr = {"SOPClassUID": MRImageStorage, "Modality": "MR", "BodyPartExamined": "HEAD"}
    first = volume(store, [20, 22, 24, 26], **mr, SeriesInstanceUID="1.2.4", SeriesNumber=4)
    again = volume(store, [20, 22, 24, 26], **mr, SeriesInstanceUID="1.2.5", SeriesNumber=5)

    study = images_of([*first, *again])

    assert len(study.images) == 4


def test_damaged_slice_does_not_change_the_scale_of_the_others(store: Any) -> None:
    slices = volume(store, [30, 31, 36, 32, 33], **CT, BodyPartExamined="HEAD")
    content = slices[1].path.read_bytes()
    slices[1].path.write_bytes(content[: len(content) - 3000])

    assert {tuple(image.transform["crop"]) for image in images_of(slices).images} == {(13, 13, 84, 84)}


def test_planes_of_an_enhanced_object_are_cropped_alike(store: Any) -> None:
    pixels = np.stack([body(radius) for radius in (20, 30, 36, 25)])
    groups = [positioned((0, 0, 5 * place), AXIAL) for place in range(4)]
    stored = store(pixels, **CT, BodyPartExamined="HEAD", PerFrameFunctionalGroupsSequence=groups)

    assert {tuple(image.transform["crop"]) for image in images_of([stored]).images} == {(13, 13, 84, 84)}
