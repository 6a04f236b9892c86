from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, MRImageStorage

from worker.images.study import images_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.images.study import StoredInstance

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
CT = {"BodyPartExamined": "CHEST", "RescaleSlope": 1, "RescaleIntercept": -1024}
DX = {"Modality": "DX", "SOPClassUID": DigitalXRayImageStorageForPresentation, "BitsStored": 12, "HighBit": 11}
MR = {"Modality": "MR", "SOPClassUID": MRImageStorage}


def said(*stored: StoredInstance) -> list[str]:
    """Warnings about the first image."""
    return images_of(stored).images[0].warnings


def with_text(stored: StoredInstance, **numbers: str) -> StoredInstance:
    """The same object with numbers that pydicom refuses to write as decimal strings."""
    dataset = dcmread(stored.path)
    for keyword, text in numbers.items():
        dataset.add(DataElement(keyword, "LO", text))
    dataset.save_as(stored.path)
    return stored


def lut(entries: npt.NDArray[Any], bits: int, *, declared: int | None = None) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [declared or len(entries), 0, bits]
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return item


def test_complete_header_has_no_warning(store: Any) -> None:
    assert said(store(RAMP, **CT)) == []
    assert said(store(RAMP, **DX, PresentationLUTShape="IDENTITY", PixelIntensityRelationshipSign=-1)) == []
    inverse = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    assert said(store(RAMP, **DX, **inverse, PixelIntensityRelationshipSign=1)) == []


def test_values_that_are_no_hounsfield_units_are_shown_in_the_window_of_the_header(store: Any) -> None:
    image = images_of([store(RAMP, **CT, RescaleType="MGML", WindowCenter=500, WindowWidth=700)]).images[0]

    assert (image.transform["center"], image.transform["width"]) == (500.0, 700.0)
    reason = "Rescale Type MGML"
    assert image.warnings == [f"not shown in a CT window: the values are not Hounsfield units ({reason})"]


def test_decimal_commas_give_the_same_image_as_points(store: Any) -> None:
    point = images_of([store(RAMP, **CT)]).images
    comma = images_of([with_text(store(RAMP, **CT), RescaleSlope="1,0", RescaleIntercept="-1024,000")]).images

    assert [image.transform["window"] for image in comma] == ["mediastinum", "lung"]
    assert all((a.pixels == b.pixels).all() for a, b in zip(point, comma, strict=True))
    assert not any(image.warnings for image in comma)


def test_half_a_rescale_pair_neither_shifts_nor_scales(store: Any) -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    plain = images_of([store(RAMP, **MR, **window)]).images[0]

    for half in ({"RescaleSlope": 3}, {"RescaleIntercept": -1000}, {"RescaleSlope": 0, "RescaleIntercept": 5}):
        image = images_of([store(RAMP, **MR, **window, **half)]).images[0]
        assert (image.pixels == plain.pixels).all()
        assert image.warnings[0].startswith("shown without rescaling: Rescale ")


@pytest.mark.parametrize("text", ["nan", "+INF", "1,024", "abc"])
def test_rescale_that_is_no_number_is_named(store: Any, text: str) -> None:
    stored = with_text(store(RAMP, **CT), RescaleIntercept=text)

    reason = "Rescale Intercept is not a number"
    assert said(stored) == [f"not shown in a CT window: the values are not Hounsfield units ({reason})"]


def test_window_and_spacing_that_are_no_numbers_are_named(store: Any) -> None:
    stored = with_text(store(RAMP, **DX), WindowCenter="1.024,5", WindowWidth="400", PixelSpacing="0.5\\x")

    assert said(stored) == [
        "shown without Window Center: the value is not a number",
        "shown without Pixel Spacing: the value is not a number",
    ]


@pytest.mark.parametrize(("bits", "held"), [(16, 4), (16, 12), (12, 8), (10, 9)])
def test_voi_lut_narrower_than_declared_is_scaled_by_what_it_holds(store: Any, bits: int, held: int) -> None:
    entries = np.maximum(1, np.arange(4096) * (2**held - 1) // 4095)

    image = images_of([store(RAMP, **DX, VOILUTSequence=[lut(entries, bits)])]).images[0]

    assert np.abs(image.pixels[..., 0].ravel() - 255 * entries / (2**held - 1)).max() < 1.01
    assert image.warnings == [f"shown through a VOI LUT that holds fewer bits than declared ({held} of {bits})"]


def test_voi_lut_of_bytes_in_words_is_right_and_silent(store: Any) -> None:
    image = images_of([store(RAMP, **DX, VOILUTSequence=[lut(np.arange(4096) // 16, 8)])]).images[0]

    assert (image.pixels[..., 0].ravel() == np.arange(4096) // 16).all()
    assert image.warnings == []


def test_modality_lut_narrower_than_declared_is_named(store: Any) -> None:
    image = images_of([store(RAMP, **DX, ModalityLUTSequence=[lut(np.arange(4096), 16)])]).images[0]

    assert image.pixels.max() == 255
    assert image.warnings == ["shown through a Modality LUT that holds fewer bits than declared (12 of 16)"]


def test_window_for_bits_that_a_modality_lut_does_not_hold_is_not_used(store: Any) -> None:
    table = [lut(np.arange(4096), 16)]

    image = images_of([store(RAMP, **DX, ModalityLUTSequence=table, WindowCenter=32768, WindowWidth=65536)]).images[0]

    assert np.ptp(image.pixels) == 255


@pytest.mark.parametrize(("sequence", "name"), [("ModalityLUTSequence", "Modality LUT"), ("VOILUTSequence", "VOI LUT")])
def test_short_lookup_table_is_named(store: Any, sequence: str, name: str) -> None:
    short = {sequence: [lut(np.arange(100), 12, declared=4096)]}

    assert said(store(RAMP, **DX, **short)) == [f"shown without {name}: a lookup table is shorter than declared"]


def test_presentation_lut_is_named(store: Any) -> None:
    table = {"PresentationLUTSequence": [lut(np.arange(256), 8)]}

    assert said(store(RAMP, **DX, **table)) == ["shown without Presentation LUT: presentation tables are not applied"]


@pytest.mark.parametrize(
    ("photometric", "elements", "warning"),
    [
        ("MONOCHROME2", {"PresentationLUTShape": "INVERSE"}, "Presentation LUT Shape INVERSE"),
        ("MONOCHROME1", {"PresentationLUTShape": "IDENTITY"}, "Presentation LUT Shape IDENTITY"),
        ("MONOCHROME2", {"PixelIntensityRelationshipSign": 1}, "Pixel Intensity Relationship Sign +1"),
        ("MONOCHROME1", {"PixelIntensityRelationshipSign": -1}, "Pixel Intensity Relationship Sign -1"),
    ],
)
def test_contradictory_polarity_is_named_and_drawn_by_photometric_interpretation(
    store: Any, photometric: str, elements: dict[str, Any], warning: str
) -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 4096, "PhotometricInterpretation": photometric}

    image = images_of([store(RAMP, **DX, **window, **elements)]).images[0]

    assert (image.pixels[-1, -1, 0] > 128) == (photometric == "MONOCHROME2")
    assert image.warnings == [f"possibly inverted: {warning} contradicts Photometric Interpretation {photometric}"]
