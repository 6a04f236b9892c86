"""The header of one stored object: what choosing and rendering need of it, read without its pixels."""

from __future__ import annotations

import io
import math
import mmap
import re
import struct
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Literal

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from worker.images.elements import PIXEL_DATA, UNDEFINED, Element, Encoding, head, inside, items, walk
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from worker.images.elements import Buffer

    #: Elements by tag, each with its bytes.
    Values = dict[int, tuple[Element, bytes]]

#: What a deflated object may grow to, in bytes: a study of deflated objects is small; a bomb of 1 MB becomes 1 GB.
MAX_INFLATED = 128 << 20
#: The largest value kept from a header, in bytes. Palettes are 128 KiB, colour profiles about 1 MiB.
MAX_VALUE = 4 << 20
#: The functional groups of every frame: about 2 KiB a frame.
MAX_GROUPS = 64 << 20

#: Items looked at in a sequence that is no functional group: lookup tables, regions, codes.
_MOST_ITEMS = 1000
_CODE = re.compile(r"[A-Z0-9 _]{1,16}")

_PIECE = 1 << 20
_PREAMBLE = 128
_META = Encoding(implicit=False, little_endian=True)
_SYNTAX = 0x00020010

_KEYWORDS = """
    ImageType SOPClassUID Modality StudyDescription SeriesDescription
    AnatomicRegionSequence BodyPartExamined SeriesInstanceUID SeriesNumber ProtocolName InstanceNumber
    AcquisitionNumber TemporalPositionIdentifier EchoTime EffectiveEchoTime DiffusionBValue
    ImagePositionPatient ImageOrientationPatient ViewPosition ImageLaterality
    Laterality FrameLaterality PresentationIntentType FrameType ViewCodeSequence CodeValue CodeMeaning
    SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns PixelSpacing
    ImagerPixelSpacing PixelAspectRatio BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue
    PixelPaddingRangeLimit RescaleIntercept RescaleSlope ModalityLUTSequence VOILUTSequence WindowCenter WindowWidth
    VOILUTFunction LUTDescriptor LUTData RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor
    BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData GreenPaletteColorLookupTableData
    BluePaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData
    SegmentedBluePaletteColorLookupTableData ICCProfile OpticalPathSequence SequenceOfUltrasoundRegions
    TotalPixelMatrixColumns TotalPixelMatrixRows DimensionOrganizationType NumberOfOpticalPaths
    TotalPixelMatrixFocalPlanes FrameOfReferenceUID
    ColumnPositionInTotalImagePixelMatrix RowPositionInTotalImagePixelMatrix
    RegionLocationMinX0 RegionLocationMinY0 RegionLocationMaxX1 RegionLocationMaxY1
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence ExtendedOffsetTable ExtendedOffsetTableLengths
""".split()  # noqa: SIM905 - eighty quoted words are harder to read
_TAGS = {keyword: tag_for_keyword(keyword) or 0 for keyword in _KEYWORDS}
_WANTED = frozenset(_TAGS.values())
_VRS = {keyword: dictionary_VR(tag) for keyword, tag in _TAGS.items()}
_GROUPS = frozenset({_TAGS["SharedFunctionalGroupsSequence"], _TAGS["PerFrameFunctionalGroupsSequence"]})


@dataclass(frozen=True, slots=True)
class Header:
    """The wanted elements of one object, as bytes, and where its pixels lie.

    Values are converted when asked for; what cannot be converted reads as absent, because a bad description must not
    cost the picture. Nothing of the patient is kept.
    """

    path: Path
    syntax: str
    encoding: Encoding
    values: Values
    pixels: Element | None

    def __contains__(self, keyword: str) -> bool:
        return _TAGS[keyword] in self.values

    def blob(self, keyword: str) -> bytes:
        """An element's bytes as they are; empty where it is absent."""
        return self.values[_TAGS[keyword]][1] if keyword in self else b""

    def vr(self, keyword: str) -> bytes:
        """The VR an element was written with; empty in implicit encodings and where it is absent."""
        return self.values[_TAGS[keyword]][0].vr if keyword in self else b""

    def texts(self, keyword: str) -> list[str]:
        """The values of a text element, stripped; [] where it is absent."""
        value = self.blob(keyword)
        return [part.strip(" \0") for part in value.decode("latin-1").split("\\")] if value else []

    def text(self, keyword: str) -> str:
        """The first value of a text element, or an empty string."""
        return next(iter(self.texts(keyword)), "")

    def code(self, keyword: str) -> str:
        """The first value of a code string in upper case; empty where it is anything else, and unfit to be repeated."""
        code = self.text(keyword).upper()
        return code if _CODE.fullmatch(code) else ""

    def numbers(self, keyword: str) -> list[float]:
        """The values of a numeric element; [] where it is absent or holds something else."""
        layout = _BINARY.get(_VRS[keyword])
        try:
            if layout is None:
                numbers = [float(part) for part in self.texts(keyword)]
            else:
                numbers = [float(part) for (part,) in struct.iter_unpack(self._order + layout, self.blob(keyword))]
        except (ValueError, struct.error):
            return []
        return numbers if all(map(math.isfinite, numbers)) else []

    def number(self, keyword: str) -> float | None:
        """The first value of a numeric element."""
        return next(iter(self.numbers(keyword)), None)

    def padding(self, keyword: str) -> int | None:
        """Pixel Padding Value or its range limit, read with the sign of the pixels whatever its VR says."""
        value = self.blob(keyword)
        order: Literal["little", "big"] = "little" if self.encoding.little_endian else "big"
        signed = self.integer("PixelRepresentation") == 1
        return int.from_bytes(value[:2], order, signed=signed) if len(value) >= 2 else None  # noqa: PLR2004

    def integer(self, keyword: str, default: int = 0) -> int:
        """The first value of a numeric element as an integer."""
        value = self.number(keyword)
        return int(value) if value is not None and abs(value) < 2**63 else default

    @property
    def _order(self) -> str:
        return "<" if self.encoding.little_endian else ">"

    @property
    def frames(self) -> int:
        """Number of Frames as claimed, at least 1."""
        return max(1, self.integer("NumberOfFrames", 1))

    def where_pixels_are(self) -> Element:
        """Pixel Data. Raises Unreadable where there is none, or it is empty."""
        if self.pixels is None or self.pixels.start == self.pixels.end:
            raise Unreadable("no_pixels", "the object holds no picture")
        return self.pixels

    def elements(self, *keywords: str) -> Dataset:
        """These elements as pydicom knows them, for its lookup-table functions.

        Raises Unreadable where pydicom cannot make sense of them.
        """
        found = (self.values[_TAGS[keyword]] for keyword in keywords if keyword in self)
        dataset = Dataset({BaseTag(element.tag): self._raw(element, value) for element, value in found})
        dataset.set_original_encoding(*self.encoding)
        return dataset

    def _raw(self, element: Element, value: bytes) -> RawDataElement:
        encoding = inside(element.vr, self.encoding) if element.length == UNDEFINED else self.encoding
        vr = element.vr.decode() if element.vr and element.vr != b"UN" else None
        return RawDataElement(BaseTag(element.tag), vr, len(value), value, 0, *encoding)

    def items(self, keyword: str) -> list[Header]:
        """The items of a sequence, each a header that knows its own elements only; of very many the first."""
        return [
            replace(self, encoding=self._inside(keyword), values=values, pixels=None)
            for values in self._each(keyword, _wanted, _MOST_ITEMS)
        ]

    def by_frame(self) -> Iterator[Header]:
        """One header a frame: the functional groups, shared and the frame's own, laid over the object's elements.

        None for an object without per-frame functional groups. PS3.3 C.7.6.16. Made one after the other, because all of
        them at once can be a hundred times the size of the object.
        """
        common = self.shared().values
        for values in self._each("PerFrameFunctionalGroupsSequence", _flat, self.frames):
            yield replace(self, values={**common, **values})

    def of_frames(self, wanted: Collection[int]) -> dict[int, Header]:
        """The headers of some frames: each its own, or the one all frames share."""
        own = zip(range(max(wanted, default=-1) + 1), self.by_frame(), strict=False)
        return {**dict.fromkeys(wanted, self.shared()), **{frame: each for frame, each in own if frame in wanted}}

    def shared(self) -> Header:
        """The header with the functional groups all frames share laid over it."""
        groups = next(self._each("SharedFunctionalGroupsSequence", _flat, 1), {})
        return replace(self, values={**self.values, **groups}) if groups else self

    def _inside(self, keyword: str) -> Encoding:
        element, _ = self.values[_TAGS[keyword]]
        return inside(element.vr, self.encoding) if element.length == UNDEFINED else self.encoding

    def _each(
        self, keyword: str, values_of: Callable[[bytes, int, Encoding, int], Values], most: int
    ) -> Iterator[Values]:
        """What *values_of* finds in the first *most* items of a sequence, as far as it is whole."""
        if keyword not in self:
            return
        encoding, value = self._inside(keyword), self.blob(keyword)
        with suppress(Unreadable):
            for start, end in islice(items(value, 0, len(value), encoding), most):
                yield values_of(value, start, encoding, end)


_BINARY = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d", "US or SS": "H"}


def read(path: Path) -> Header:
    """Read the header of a DICOM file (PS3.10).

    Raises Unreadable: not DICOM, no transfer syntax, cut within its header.
    """
    with opened(path) as (syntax, encoding, buffer, start):
        values, pixels = {}, None
        for element in walk(buffer, start, encoding, wanted=_WANTED):
            if element.tag == PIXEL_DATA:
                pixels = element
            elif element.end - element.start <= _most(element.tag):
                values[element.tag] = element, bytes(buffer[element.start : element.end])
        return Header(path=path, syntax=syntax, encoding=encoding, values=values, pixels=pixels)


@contextmanager
def opened(path: Path) -> Iterator[tuple[str, Encoding, Buffer, int]]:
    """A file's transfer syntax, its encoding, its bytes (inflated where it is deflated), and where its data set begins.

    The bytes are mapped, not read: a header touches its first pages, a frame only its own.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise Unreadable("missing", "the stored file is not there any more") from None
    with file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise Unreadable("not_dicom", "the file is empty") from None
    with mapped:
        syntax, start = _meta(mapped)
        encoding = Encoding(implicit=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian)
        if syntax == DeflatedExplicitVRLittleEndian:
            yield syntax, encoding, _inflated(mapped, start), 0
        else:
            yield syntax, encoding, mapped, start


def _meta(buffer: Buffer) -> tuple[str, int]:
    """The transfer syntax, and where the data set after the file meta information (group 0002) begins."""
    if buffer[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
        raise Unreadable("not_dicom", "the file is not a DICOM file: it has no DICM prefix")
    syntax, start = "", _PREAMBLE + 4
    while buffer[start : start + 2] == b"\2\0":
        tag, _, length, value = head(buffer, start, _META)
        start = value + length
        if tag == _SYNTAX:
            syntax = buffer[value:start].decode("latin-1").strip(" \0")
    if not syntax:
        raise Unreadable("no_transfer_syntax", "the file does not say how it is encoded")
    return syntax, start


def _inflated(buffer: Buffer, start: int) -> bytes:
    inflater, body = zlib.decompressobj(-zlib.MAX_WBITS), io.BytesIO()
    try:
        # Piece by piece on both sides: zlib holds what it returns twice, and copies what it has not consumed.
        for begin in range(start, len(buffer), _PIECE):
            rest = buffer[begin : begin + _PIECE]
            while rest:
                body.write(inflater.decompress(rest, _PIECE))
                rest = inflater.unconsumed_tail
                if body.tell() > MAX_INFLATED:
                    raise Unreadable("too_large", f"the data set inflates to more than {MAX_INFLATED >> 20} MiB")
    except zlib.error:
        raise Unreadable("truncated", "the deflated data set is damaged") from None
    return body.getvalue()


def _wanted(buffer: bytes, start: int, encoding: Encoding, end: int) -> Values:
    return {
        element.tag: (element, buffer[element.start : element.end])
        for element in walk(buffer, start, encoding, end=end, wanted=_WANTED)
    }


def _flat(buffer: bytes, start: int, encoding: Encoding, end: int) -> Values:
    """The wanted elements of one functional group item: each macro is a sequence of one item, whose elements count."""
    flat: Values = {}
    for macro in walk(buffer, start, encoding, end=end):
        if macro.vr in (b"SQ", b""):
            for item in items(buffer, macro.start, macro.end, encoding):
                flat.update(_wanted(buffer, item[0], encoding, item[1]))
                break
    return flat


def _most(tag: int) -> int:
    return MAX_GROUPS if tag in _GROUPS else MAX_VALUE
