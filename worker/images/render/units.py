"""Units of the values of a CT slice: Hounsfield units, or the reason why they are not (PS3.3 C.8.2.1, C.11.1.1.2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker.images.decode.image_pixel import GRAYSCALE
from worker.images.render.windows import MAX_MAGNITUDE

if TYPE_CHECKING:
    from worker.images.decode.header import Header, Keyword

_CT_CLASSES = frozenset(f"1.2.840.10008.5.1.4.1.1.{suffix}" for suffix in ("2", "2.1", "2.2"))
_HOUNSFIELD = frozenset({"HU", "HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS"})
#: Code of Hounsfield units in UCUM.
_UCUM = "[hnsf'u]"
#: Words of Image Type and Frame Type for another quantity than density (PS3.3 C.8.2.1.1.1, C.8.15.2, and vendors).
_OTHER_QUANTITIES = frozenset({
    "MAT_SPECIFIC", "MAT_FRACTIONAL", "MAT_VALUE_BASED", "MAT_MODIFIED", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY",
    "PERFUSION", "PERFUSED", "CBF", "CBV", "MTT", "TTP", "TMAX", "RCBF", "RCBV", "KTRANS", "PERMEABILITY", "IODINE",
    "IOD", "RHO", "ZEFF", "Z_EFF", "RHO_Z",
})  # fmt: skip
#: Those of them that a description of derived images cannot mean otherwise.
_DESCRIBED = frozenset({
    "CBF", "CBV", "MTT", "TTP", "TMAX", "RCBF", "RCBV", "KTRANS", "PERMEABILITY", "IODINE", "ZEFF",
})  # fmt: skip
_PROJECTIONS = frozenset({"LOCALIZER", "SCREEN SAVE", "CAPTURE", "VOLREND"})
_PAIR: tuple[Keyword, Keyword] = ("RescaleSlope", "RescaleIntercept")


def is_hounsfield(header: Header) -> bool:
    """Return whether the values of a CT slice are Hounsfield units after its rescale."""
    return not _is_no_slice(header) and not hounsfield_obstacle(header)


def hounsfield_obstacle(header: Header) -> str:
    """Return the reason why the values of a CT slice are not known to be Hounsfield units, as a phrase; empty if none.

    Rescale Type decides. "US" means unspecified, although an original axial slice must be in Hounsfield units: the
    header contradicts itself, and its own window is the safe choice. Localizers and secondary captures have no reason.
    """
    if _is_no_slice(header):
        return ""
    if "ModalityLUTSequence" in header:
        unit = next((item.code("ModalityLUTType") for item in header.items("ModalityLUTSequence")), "")
        return "" if unit in _HOUNSFIELD else f"Modality LUT of type {unit or 'unknown'}"
    if fault := rescale_fault(header):
        return fault
    if header.number(_PAIR[0]) is None:
        return "Rescale Slope and Intercept are missing"
    if header.text("RescaleType"):
        unit = header.code("RescaleType")
        return "" if unit in _HOUNSFIELD else f"Rescale Type {unit or 'unknown'}"
    return _undeclared(header)


def rescale_fault(header: Header) -> str:
    """Return the fault of an incomplete or invalid pair of Rescale Slope and Intercept; empty if it has none."""
    for keyword, name in zip(_PAIR, ("Rescale Slope", "Rescale Intercept"), strict=True):
        value = header.number(keyword)
        if header.is_invalid(keyword) or (value is not None and abs(value) > MAX_MAGNITUDE):
            return f"{name} is not a number"
    slope, intercept = map(header.number, _PAIR)
    if slope == 0:
        return "Rescale Slope is 0"
    if (slope is None) != (intercept is None):
        return f"Rescale {'Slope' if slope is None else 'Intercept'} is missing"
    return ""


def _undeclared(header: Header) -> str:
    """Return the reason against Hounsfield units without a Rescale Type, which is required for all other units."""
    if header.code("MultienergyCTAcquisition") == "YES":
        return "Rescale Type is missing in a multi-energy image"
    types = _types(header)
    words = {*types, *(word for value in types for word in re.split(r"[ _]", value))}
    # The slices of a perfusion study are in Hounsfield units, the maps made of them are not.
    others = _OTHER_QUANTITIES - ({"PERFUSION"} if "ORIGINAL" in types else set())
    if other := sorted(words & others):
        return f"Image Type {other[0]}"
    described = set(re.split(r"[^A-Z]+", header.text("SeriesDescription").upper()))
    if "ORIGINAL" not in types and (other := sorted(described & _DESCRIBED)):
        return f"Series Description {other[0]}"
    mappings = header.items("RealWorldValueMappingSequence")
    units = [code.text("CodeValue").lower() for item in mappings for code in item.items("MeasurementUnitsCodeSequence")]
    return "" if not units or _UCUM in units else "Real World Value Mapping to another unit"


def _is_no_slice(header: Header) -> bool:
    """Return whether an object is a localizer, a secondary capture, a drawing or a colour image."""
    is_ct = not header.text("SOPClassUID") or header.text("SOPClassUID") in _CT_CLASSES
    is_grey = header.text("PhotometricInterpretation").upper() in GRAYSCALE
    return not is_ct or not is_grey or not _PROJECTIONS.isdisjoint(_types(header))


def _types(header: Header) -> set[str]:
    return {part.upper() for keyword in ("ImageType", "FrameType") for part in header.texts(keyword)}
