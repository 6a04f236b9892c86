"""Image Pixel module of an object, checked before any memory is taken for its frames (PS3.3 C.7.6.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from db.errors import Reason
from db.studies import transfer_syntaxes
from db.studies.element_headers import UNDEFINED
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    from worker.images.decode.header import Header

#: Bytes of one decoded frame. A 24-megapixel photograph has 72 million, a mammogram of 16 bits 60 million. Decoding
#: takes two to four times as much, so this keeps a hostile file below 300 MiB.
MAX_FRAME_BYTES = 80_000_000
#: Frames of one object: a slide of 128 000 x 128 000 pixels in tiles of 256.
MAX_FRAMES = 250_000
#: Bytes of a compressed frame, its item header included.
_MIN_COMPRESSED_BYTES = 16

GRAYSCALE = frozenset({"MONOCHROME1", "MONOCHROME2"})
_COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"})
_PALETTE = "PALETTE COLOR"
_PHOTOMETRIC = GRAYSCALE | _COLOUR | {_PALETTE}


class Shape(NamedTuple):
    """Attributes of the Image Pixel module that decide sizes."""

    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    photometric: str

    @property
    def total(self) -> int:
        """Samples of one frame."""
        return self.rows * self.columns * self.samples

    @property
    def size(self) -> int:
        """Bytes of one frame after decoding, or after its palette is applied."""
        return max(self.total * max(8, self.allocated) // 8, 3 * self.total * (self.photometric == _PALETTE))


def shape_of(header: Header) -> Shape:
    """Return the checked shape of an object's frames; the pixels are not read.

    Raises Unreadable: video, transfer syntax not supported, no pixels, unsupported photometric interpretation,
    too large, malformed, truncated.
    """
    _check_syntax(header.syntax)
    pixels = header.pixel_data()
    shape = _declared(header)
    _check(shape)
    if header.frames > MAX_FRAMES:
        raise Unreadable(Reason.TOO_LARGE, f"the object declares more than {MAX_FRAMES} frames")
    available = pixels.end - pixels.start
    if header.syntax in transfer_syntaxes.NATIVE:
        if pixels.length == UNDEFINED:
            raise Unreadable(
                Reason.MALFORMED, "the pixel data is compressed although the transfer syntax is uncompressed"
            )
        return _check_length(header, shape, available=available)
    if available < header.frames * _MIN_COMPRESSED_BYTES:
        raise Unreadable(Reason.TRUNCATED, "the pixel data is shorter than the declared frames")
    return shape


def _check_syntax(syntax: str) -> None:
    """Raise Unreadable, with its cause, for a transfer syntax that is not decoded."""
    if transfer_syntaxes.is_video(syntax):
        raise Unreadable(Reason.VIDEO, "the object is a video, which is not supported")
    if syntax in transfer_syntaxes.REFERENCED:
        raise Unreadable(Reason.NO_PIXELS, "the pixel data is stored outside the object")
    if syntax in transfer_syntaxes.DECODED:
        return
    name = transfer_syntaxes.described(syntax)
    if transfer_syntaxes.is_standard(syntax):
        raise Unreadable(Reason.UNSUPPORTED_TRANSFER_SYNTAX, f"the transfer syntax {name} is not supported")
    raise Unreadable(Reason.UNKNOWN_TRANSFER_SYNTAX, f"the private or unknown transfer syntax {name} is not supported")


def _declared(header: Header) -> Shape:
    allocated = header.integer("BitsAllocated")
    stored = header.integer("BitsStored", allocated)
    high_bit = header.integer("HighBit", stored - 1)
    return Shape(
        rows=header.integer("Rows"),
        columns=header.integer("Columns"),
        samples=header.integer("SamplesPerPixel", 1),
        allocated=allocated,
        stored=stored,
        # A High Bit below which the stored bits do not fit is wrong.
        high_bit=high_bit if stored - 1 <= high_bit < allocated else stored - 1,
        signed=header.integer("PixelRepresentation") == 1 and stored > 1,
        photometric=header.text("PhotometricInterpretation").upper(),
    )


def _check(shape: Shape) -> None:
    expected = 3 if shape.photometric in _COLOUR else 1
    if shape.photometric not in _PHOTOMETRIC:
        raise Unreadable(Reason.UNKNOWN_PHOTOMETRIC, "the photometric interpretation is not supported")
    if shape.samples != expected or shape.allocated not in (1, 8, 16, 32) or not 0 < shape.stored <= shape.allocated:
        raise Unreadable(
            Reason.MALFORMED, "bit depth, samples per pixel and photometric interpretation are inconsistent"
        )
    if min(shape.rows, shape.columns) < 1:
        raise Unreadable(Reason.MALFORMED, "the number of rows or columns is zero")
    if shape.size > MAX_FRAME_BYTES:
        raise Unreadable(Reason.TOO_LARGE, f"the image exceeds {MAX_FRAME_BYTES // 1_000_000} million bytes")


def _check_length(header: Header, shape: Shape, *, available: int) -> Shape:
    """Check that native Pixel Data of *available* bytes holds all declared frames."""
    needed = header.frames * shape.total * shape.allocated
    if shape.photometric == "YBR_FULL_422":
        if available * 8 >= needed:
            return shape._replace(photometric="YBR_FULL")  # not subsampled, although declared so
        needed = needed * 2 // 3
    if available * 8 < needed:
        raise Unreadable(Reason.TRUNCATED, "the pixel data is shorter than the declared image")
    return shape
