"""Warnings about an image whose header is incomplete or contradicts itself: phrases after "Image 3 is".

An image is drawn by the attributes that can be used, and the reader is told which could not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from db.studies.modalities import PROJECTION_RADIOGRAPHS, family_of
from worker.images.decode.image_pixel import GRAYSCALE
from worker.images.render.units import hounsfield_obstacle, rescale_fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from worker.images.decode.header import Header, Keyword

_VOI: tuple[tuple[Keyword, str], ...] = (("WindowCenter", "Window Center"), ("WindowWidth", "Window Width"))
_GEOMETRY: tuple[tuple[Keyword, str], ...] = (
    ("PixelSpacing", "Pixel Spacing"),
    ("ImagerPixelSpacing", "Imager Pixel Spacing"),
    ("PixelAspectRatio", "Pixel Aspect Ratio"),
    ("ImagePositionPatient", "Image Position (Patient)"),
    ("ImageOrientationPatient", "Image Orientation (Patient)"),
)
#: Presentation LUT Shape of each photometric interpretation (PS3.3 C.7.6.1, C.8.11.3).
_SHAPES = {"MONOCHROME2": "IDENTITY", "MONOCHROME1": "INVERSE"}
#: Pixel Intensity Relationship Sign with which bone is white: low values are little radiation in MONOCHROME1.
_SIGNS = {"MONOCHROME2": -1, "MONOCHROME1": 1}


def header_warnings(header: Header, modality: str, steps: Mapping[str, Any]) -> list[str]:
    """Return warnings about an image drawn by *steps*; *header* is the frame's."""
    photometric = header.text("PhotometricInterpretation").upper()
    found = [*_of_numbers(header, steps)]
    if photometric in GRAYSCALE:
        found += [*_of_units(header, modality, steps), *_of_polarity(header, modality, photometric)]
    return [*found, *_of_tables(header, steps), *_of_colours(steps)]


def _of_numbers(header: Header, steps: Mapping[str, Any]) -> Iterator[str]:
    elements = _GEOMETRY if "window" in steps else (*_VOI, *_GEOMETRY)
    for keyword, name in elements:
        if header.is_invalid(keyword):
            yield f"shown without {name}: the value is not a number"


def _of_units(header: Header, modality: str, steps: Mapping[str, Any]) -> Iterator[str]:
    if modality == "CT" and "window" not in steps:
        if obstacle := hounsfield_obstacle(header):
            yield f"not shown in a CT window: the values are not Hounsfield units ({obstacle})"
    elif fault := rescale_fault(header):
        yield f"shown without rescaling: {fault}"


def _of_tables(header: Header, steps: Mapping[str, Any]) -> Iterator[str]:
    """Yield warnings about lookup tables; the steps name what was found in them."""
    for step, name in (("modality", "Modality LUT"), ("voi_lut", "VOI LUT")):
        if step in steps:
            yield f"shown without {name}: {steps[step].partition(': ')[2]}"
    for step, name in (("modality_bits", "Modality LUT"), ("voi_bits", "VOI LUT"), ("palette_bits", "palette")):
        if step in steps:
            yield f"shown through a {name} that holds fewer bits than declared ({steps[step]})"
    if "PresentationLUTSequence" in header:
        yield "shown without Presentation LUT: presentation tables are not applied"


def _of_colours(steps: Mapping[str, Any]) -> Iterator[str]:
    if "colour_problem" in steps:
        yield f"possibly in wrong colours: {steps['colour_problem']}"


def _of_polarity(header: Header, modality: str, photometric: str) -> Iterator[str]:
    """Yield warnings about attributes by which black and white may be exchanged; none of them inverts the image."""
    shape, sign = header.code("PresentationLUTShape"), header.number("PixelIntensityRelationshipSign")
    if shape in _SHAPES.values() and shape != _SHAPES[photometric]:
        yield f"possibly inverted: Presentation LUT Shape {shape} contradicts Photometric Interpretation {photometric}"
    tables = "VOILUTSequence" in header or "ModalityLUTSequence" in header
    if family_of(modality) in PROJECTION_RADIOGRAPHS and not tables and sign in (-1, 1) and sign != _SIGNS[photometric]:
        relation = f"Pixel Intensity Relationship Sign {sign:+.0f}"
        yield f"possibly inverted: {relation} contradicts Photometric Interpretation {photometric}"
