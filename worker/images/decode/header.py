"""Header of one stored object: the attributes that selection and rendering need, without the pixels."""

from __future__ import annotations

import math
import re
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Literal, get_args

from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag

from db.errors import Reason
from worker.images.decode.decimal_strings import decimal_points, has_decimal_comma, number_of
from worker.images.decode.elements import FLOAT_PIXELS, Element, Encoding, collect, encoding_inside, items, walk
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from worker.images.decode.elements import Values

#: Bytes of a lookup table, profile, offset table or sequence. Palettes have 128 KiB, colour profiles about 1 MiB.
_MAX_TABLE = 4 << 20
#: Bytes of functional groups: about 2 KiB per frame.
_MAX_GROUPS = 64 << 20
#: Bytes of a text or of a few numbers.
_MAX_TEXT = 4 << 10
#: VRs of the larger values.
_TABLES = frozenset({"OB", "OV", "OW", "SQ", "US or OW"})
#: Items read from a sequence of lookup tables, regions or codes; real ones have a few.
_MAX_ITEMS = 1000
_CODE = re.compile(r"[A-Z0-9 _]{1,16}")

#: Bytes of a value whose conversion is cached: sixteen numbers as text.
_MAX_CACHED = 128

# fmt: off
#: Attributes that can be read from a header. A type, so that mypy finds a keyword that is not kept.
Keyword = Literal[
    "ImageType", "SOPClassUID", "Modality", "StudyDescription", "SeriesDescription", "AnatomicRegionSequence",
    "BodyPartExamined", "SeriesInstanceUID", "SeriesNumber", "ProtocolName", "InstanceNumber", "AcquisitionNumber",
    "TemporalPositionIdentifier", "EchoTime", "EffectiveEchoTime", "DiffusionBValue", "ImagePositionPatient",
    "ImageOrientationPatient", "ViewPosition", "ImageLaterality", "Laterality", "FrameLaterality",
    "PresentationIntentType", "FrameType", "ViewCodeSequence", "CodeValue", "CodeMeaning", "SamplesPerPixel",
    "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "PixelSpacing",
    "ImagerPixelSpacing", "PixelAspectRatio", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence",
    "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "LUTDescriptor", "LUTData",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData", "ICCProfile",
    "OpticalPathSequence", "SequenceOfUltrasoundRegions", "TotalPixelMatrixColumns", "TotalPixelMatrixRows",
    "DimensionOrganizationType", "NumberOfOpticalPaths", "TotalPixelMatrixFocalPlanes", "FrameOfReferenceUID",
    "ColumnPositionInTotalImagePixelMatrix", "RowPositionInTotalImagePixelMatrix", "RegionLocationMinX0",
    "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "RescaleType",
    "ModalityLUTType", "MultienergyCTAcquisition", "ConvolutionKernel", "RealWorldValueMappingSequence",
    "MeasurementUnitsCodeSequence", "PresentationLUTShape", "PresentationLUTSequence",
    "PixelIntensityRelationshipSign", "LossyImageCompression",
    "PatientOrientation", "AnatomicalOrientationType", "DetectorInformationSequence", "DetectorVector",
    "PerformedProcedureStepDescription", "RequestedProcedureDescription",
]
# fmt: on
_TAGS: dict[Keyword, int] = {keyword: int(Tag(keyword)) for keyword in get_args(Keyword)}
#: Maximum length of each element's value that is kept, in bytes.
WANTED = {tag: _MAX_TABLE if dictionary_VR(tag) in _TABLES else _MAX_TEXT for tag in _TAGS.values()}
WANTED[_TAGS["SharedFunctionalGroupsSequence"]] = WANTED[_TAGS["PerFrameFunctionalGroupsSequence"]] = _MAX_GROUPS
_VRS = {keyword: dictionary_VR(tag) for keyword, tag in _TAGS.items()}
_DECIMAL_STRINGS = [tag for keyword, tag in _TAGS.items() if _VRS[keyword] == "DS"]


@dataclass(frozen=True, slots=True)
class Header:
    """Wanted elements of one object, as bytes, and the position of its Pixel Data.

    Values are converted on access. A value that cannot be converted reads as absent: an invalid description must not
    cost the image. No attribute that identifies the patient is kept.
    """

    path: Path
    syntax: str
    encoding: Encoding
    values: Values
    pixels: Element | None

    def __contains__(self, keyword: Keyword) -> bool:
        return _TAGS[keyword] in self.values

    @property
    def bytes_kept(self) -> int:
        """Memory of the wanted elements, in bytes."""
        return sum(len(value) for _, _, value in self.values.values())

    def raw(self, keyword: Keyword) -> bytes:
        """Return the bytes of an element; empty if it is absent."""
        found = self.values.get(_TAGS[keyword])
        return found[2] if found else b""

    def vr(self, keyword: Keyword) -> bytes:
        """Return the VR of an element as written; empty in implicit encodings and if it is absent."""
        found = self.values.get(_TAGS[keyword])
        return found[0] if found else b""

    def texts(self, keyword: Keyword) -> list[str]:
        """Return the values of a text element, stripped; [] if it is absent."""
        value = self.raw(keyword)
        return [part.strip(" \0") for part in value.decode("latin-1").split("\\")] if value else []

    def text(self, keyword: Keyword) -> str:
        """Return the first value of a text element, or an empty string."""
        return self.raw(keyword).partition(b"\\")[0].decode("latin-1").strip(" \0")

    def code(self, keyword: Keyword) -> str:
        """Return the first value of a code string in upper case; empty if it is not one, and may hold free text."""
        code = self.text(keyword).upper()
        return code if _CODE.fullmatch(code) else ""

    def numbers(self, keyword: Keyword) -> tuple[float, ...]:
        """Return the values of a numeric element; () if it is absent or one of them is not a number.

        A decimal comma is read as a point if it can be nothing else: "1,024" is 1024 or 1.024.
        """
        value, vr = self.raw(keyword), self.vr(keyword).decode("latin-1")
        # An element with another numeric VR than its own is read by the one that it was written with.
        if vr not in _NUMERIC:
            vr = _VRS[keyword]
        if b"," in value and vr not in _BINARY:
            value = decimal_points(value, lambda: any(map(has_decimal_comma, self._decimal_strings())))
        # The slices of a series repeat each other: a short value is converted once.
        convert = _numbers if len(value) <= _MAX_CACHED else _numbers.__wrapped__
        return convert(value, vr, self.encoding.little_endian)

    def _decimal_strings(self) -> Iterator[bytes]:
        return (self.values[tag][2] for tag in _DECIMAL_STRINGS if tag in self.values)

    def is_invalid(self, keyword: Keyword) -> bool:
        """Return whether a numeric element has a value that cannot be read as numbers."""
        return bool(self.raw(keyword).strip(b" \0\\")) and not self.numbers(keyword)

    def number(self, keyword: Keyword) -> float | None:
        """Return the first value of a numeric element; None if it is absent."""
        values = self.numbers(keyword)
        return values[0] if values else None

    def padding(self, keyword: Keyword) -> int | None:
        """Return Pixel Padding Value or its range limit, with the sign of the pixels: its VR is often wrong."""
        value = self.raw(keyword)
        order: Literal["little", "big"] = "little" if self.encoding.little_endian else "big"
        signed = self.integer("PixelRepresentation") == 1
        return int.from_bytes(value[:2], order, signed=signed) if len(value) >= 2 else None  # noqa: PLR2004

    def integer(self, keyword: Keyword, default: int = 0) -> int:
        """Return the first value of a numeric element as an integer."""
        values = self.numbers(keyword)
        return int(values[0]) if values and abs(values[0]) < 2**63 else default

    @property
    def frames(self) -> int:
        """Number of Frames as declared, at least 1."""
        return max(1, self.integer("NumberOfFrames", 1))

    def pixel_data(self) -> Element:
        """Return the position of Pixel Data. Raises Unreadable if it is absent, empty or of floating-point numbers."""
        if self.pixels is None or self.pixels.start == self.pixels.end:
            raise Unreadable(Reason.NO_PIXELS, "the object contains no pixel data")
        if self.pixels.tag in FLOAT_PIXELS:
            raise Unreadable(Reason.UNSUPPORTED_PIXELS, "pixels of floating-point numbers are not supported")
        return self.pixels

    def items(self, keyword: Keyword) -> list[Header]:
        """Return the items of a sequence, at most the first 1000, each as a header with its own elements only."""
        return [
            replace(self, encoding=self._encoding_inside(keyword), values=values, pixels=None)
            for values in self._each(keyword, _wanted, _MAX_ITEMS)
        ]

    def by_frame(self) -> Iterator[Header]:
        """Yield one header per frame: the shared and the frame's own functional groups override the object's elements.

        Empty for an object without per-frame functional groups. PS3.3 C.7.6.16. An iterator, because all headers at
        once can be a hundred times the size of the object.
        """
        common = self.shared().values
        for values in self._each("PerFrameFunctionalGroupsSequence", _flat, self.frames):
            yield replace(self, values={**common, **values})

    def of_frames(self, wanted: Collection[int]) -> dict[int, Header]:
        """Return the headers of the *wanted* frames: each its own, or the one that all frames share."""
        if "PerFrameFunctionalGroupsSequence" not in self:
            return dict.fromkeys(wanted, self.shared())
        own = zip(range(max(wanted, default=-1) + 1), self.by_frame(), strict=False)
        return {**dict.fromkeys(wanted, self.shared()), **{frame: each for frame, each in own if frame in wanted}}

    def shared(self) -> Header:
        """Return the header overridden by the functional groups that all frames share."""
        if "SharedFunctionalGroupsSequence" not in self:
            return self
        groups = next(self._each("SharedFunctionalGroupsSequence", _flat, 1), {})
        return replace(self, values={**self.values, **groups})

    def _encoding_inside(self, keyword: Keyword) -> Encoding:
        vr, undefined, _ = self.values[_TAGS[keyword]]
        return encoding_inside(vr, self.encoding) if undefined else self.encoding

    def _each(
        self, keyword: Keyword, values_of: Callable[[bytes, int, Encoding, int], Values], limit: int
    ) -> Iterator[Values]:
        """Yield the values of the first *limit* items of a sequence, up to the first damaged one."""
        if keyword not in self:
            return
        encoding, value = self._encoding_inside(keyword), self.raw(keyword)
        with suppress(Unreadable):
            for start, end in islice(items(value, 0, len(value), encoding), limit):
                yield values_of(value, start, encoding, end)


#: struct format of the binary VRs.
_BINARY = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d", "US or SS": "H"}
_NUMERIC = frozenset({*_BINARY, "DS", "IS"})


@lru_cache(maxsize=4096)
def _numbers(value: bytes, vr: str, little_endian: bool) -> tuple[float, ...]:
    layout = _BINARY.get(vr)
    try:
        if layout is None:
            return tuple(map(number_of, value.split(b"\\"))) if value else ()
        count = len(value) // struct.calcsize(f"<{layout}")
        numbers = struct.unpack(f"{'<' if little_endian else '>'}{count}{layout}", value)
    except (ValueError, struct.error):
        return ()
    return tuple(map(float, numbers)) if all(map(math.isfinite, numbers)) else ()


def _wanted(buffer: bytes, start: int, encoding: Encoding, end: int) -> Values:
    return collect(buffer, start, encoding, end=end, wanted=WANTED)[0]


def _flat(buffer: bytes, start: int, encoding: Encoding, end: int) -> Values:
    """Return the wanted elements of one functional group item: each macro is a sequence of one item."""
    flat: Values = {}
    for macro in walk(buffer, start, encoding, end=end):
        if macro.vr in (b"SQ", b""):
            for item in items(buffer, macro.start, macro.end, encoding):
                flat.update(_wanted(buffer, item[0], encoding, item[1]))
                break
    return flat
