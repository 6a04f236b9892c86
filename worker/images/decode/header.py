"""The header of one stored object: what choosing and rendering need of it, read without its pixels."""

from __future__ import annotations

import math
import re
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Literal

from pydicom.datadict import dictionary_VR, tag_for_keyword

from db.errors import Reason
from worker.images.decode.elements import Element, Encoding, collect, inside, items, walk
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from worker.images.decode.elements import Values

#: The largest value kept from a header, in bytes. Palettes are 128 KiB, colour profiles about 1 MiB.
_MAX_VALUE = 4 << 20
#: The functional groups of every frame: about 2 KiB a frame.
_MAX_GROUPS = 64 << 20

#: The same of words and a few numbers.
_MAX_WORDS = 4 << 10
#: VRs of what may be larger: lookup tables, profiles, offset tables, sequences.
_TABLES = frozenset({"OB", "OV", "OW", "SQ", "US or OW"})
#: Items looked at in a sequence that is no functional group: lookup tables, regions, codes.
_MOST_ITEMS = 1000
_CODE = re.compile(r"[A-Z0-9 _]{1,16}")

#: Bytes of a value whose conversion is kept: sixteen numbers of text.
_SHORT = 128

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
#: The largest value of each element that is kept.
WANTED = {tag: _MAX_VALUE if dictionary_VR(tag) in _TABLES else _MAX_WORDS for tag in _TAGS.values()}
for _groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
    WANTED[_TAGS[_groups]] = _MAX_GROUPS
_VRS = {keyword: dictionary_VR(tag) for keyword, tag in _TAGS.items()}


@dataclass(frozen=True, slots=True)
class Header:
    """The wanted elements of one object, as bytes, and where its pixels lie.

    Values are converted when asked for; what cannot be converted reads as absent, because a bad description must not
    cost the image. Nothing of the patient is kept.
    """

    path: Path
    syntax: str
    encoding: Encoding
    values: Values
    pixels: Element | None

    def __contains__(self, keyword: str) -> bool:
        return _TAGS[keyword] in self.values

    @property
    def bytes_kept(self) -> int:
        """What the wanted elements take in memory, in bytes."""
        return sum(len(value) for _, _, value in self.values.values())

    def blob(self, keyword: str) -> bytes:
        """An element's bytes as they are; empty where it is absent."""
        found = self.values.get(_TAGS[keyword])
        return found[2] if found else b""

    def vr(self, keyword: str) -> bytes:
        """The VR an element was written with; empty in implicit encodings and where it is absent."""
        found = self.values.get(_TAGS[keyword])
        return found[0] if found else b""

    def texts(self, keyword: str) -> list[str]:
        """The values of a text element, stripped; [] where it is absent."""
        value = self.blob(keyword)
        return [part.strip(" \0") for part in value.decode("latin-1").split("\\")] if value else []

    def text(self, keyword: str) -> str:
        """The first value of a text element, or an empty string."""
        return self.blob(keyword).partition(b"\\")[0].decode("latin-1").strip(" \0")

    def code(self, keyword: str) -> str:
        """The first value of a code string in upper case; empty where it is anything else, and unfit to be repeated."""
        code = self.text(keyword).upper()
        return code if _CODE.fullmatch(code) else ""

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """The values of a numeric element; () where it is absent or holds something else."""
        value = self.blob(keyword)
        # The slices of a series repeat each other: what is short is converted once.
        convert = _numbers if len(value) <= _SHORT else _numbers.__wrapped__
        return convert(value, _VRS[keyword], self.encoding.little_endian)

    def number(self, keyword: str) -> float | None:
        """The first value of a numeric element."""
        values = self.numbers(keyword)
        return values[0] if values else None

    def padding(self, keyword: str) -> int | None:
        """Pixel Padding Value or its range limit, read with the sign of the pixels whatever its VR says."""
        value = self.blob(keyword)
        order: Literal["little", "big"] = "little" if self.encoding.little_endian else "big"
        signed = self.integer("PixelRepresentation") == 1
        return int.from_bytes(value[:2], order, signed=signed) if len(value) >= 2 else None  # noqa: PLR2004

    def integer(self, keyword: str, default: int = 0) -> int:
        """The first value of a numeric element as an integer."""
        values = self.numbers(keyword)
        return int(values[0]) if values and abs(values[0]) < 2**63 else default

    @property
    def frames(self) -> int:
        """Number of Frames as claimed, at least 1."""
        return max(1, self.integer("NumberOfFrames", 1))

    def where_pixels_are(self) -> Element:
        """Pixel Data. Raises Unreadable where there is none, or it is empty."""
        if self.pixels is None or self.pixels.start == self.pixels.end:
            raise Unreadable(Reason.NO_PIXELS, "the object contains no pixel data")
        return self.pixels

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
        if "PerFrameFunctionalGroupsSequence" not in self:
            return dict.fromkeys(wanted, self.shared())
        own = zip(range(max(wanted, default=-1) + 1), self.by_frame(), strict=False)
        return {**dict.fromkeys(wanted, self.shared()), **{frame: each for frame, each in own if frame in wanted}}

    def shared(self) -> Header:
        """The header with the functional groups all frames share laid over it."""
        if "SharedFunctionalGroupsSequence" not in self:
            return self
        groups = next(self._each("SharedFunctionalGroupsSequence", _flat, 1), {})
        return replace(self, values={**self.values, **groups})

    def _inside(self, keyword: str) -> Encoding:
        vr, undefined, _ = self.values[_TAGS[keyword]]
        return inside(vr, self.encoding) if undefined else self.encoding

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


#: How binary numbers lie, and the bytes of one.
_BINARY = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d", "US or SS": "H"}


@lru_cache(maxsize=4096)
def _numbers(value: bytes, vr: str, little_endian: bool) -> tuple[float, ...]:
    layout = _BINARY.get(vr)
    try:
        if layout is None:
            numbers = tuple(float(part.strip(" \0")) for part in value.decode("latin-1").split("\\")) if value else ()
        else:
            numbers = struct.unpack(
                f"{'<' if little_endian else '>'}{len(value) // struct.calcsize(f'<{layout}')}{layout}", value
            )
    except (ValueError, struct.error):
        return ()
    return tuple(map(float, numbers)) if all(map(math.isfinite, numbers)) else ()


def _wanted(buffer: bytes, start: int, encoding: Encoding, end: int) -> Values:
    return collect(buffer, start, encoding, end=end, wanted=WANTED)[0]


def _flat(buffer: bytes, start: int, encoding: Encoding, end: int) -> Values:
    """The wanted elements of one functional group item: each macro is a sequence of one item, whose elements count."""
    flat: Values = {}
    for macro in walk(buffer, start, encoding, end=end):
        if macro.vr in (b"SQ", b""):
            for item in items(buffer, macro.start, macro.end, encoding):
                flat.update(_wanted(buffer, item[0], encoding, item[1]))
                break
    return flat
