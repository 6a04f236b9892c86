"""One frame of one object, decoded to the samples that were stored, with every claim checked before memory is taken."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from worker.images import gdcm
from worker.images.codestream import Codec, Codestream, inspect
from worker.images.encapsulated import frame_of
from worker.images.errors import Unreadable
from worker.images.header import opened

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.images.elements import Buffer
    from worker.images.header import Header

#: Samples of one frame (rows x columns x samples per pixel). Mammograms have 30 million, a 24-megapixel photograph 72;
#: a decoder takes up to 8 bytes a sample, so this keeps one frame below 1 GiB. Pillow warns from 89 million pixels.
MAX_SAMPLES = 88_000_000
#: Frames above this many samples must not be smaller than a thousandth of it: no real picture compresses so well.
_BOMB_SAMPLES, _BOMB_RATIO = 16_000_000, 1000

GRAYSCALE = frozenset({"MONOCHROME1", "MONOCHROME2"})
COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"})
_PALETTE = "PALETTE COLOR"

_NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"})
_JPEG_FAMILY = "1.2.840.10008.1.2.4."
#: MPEG-2, MPEG-4, HEVC (PS3.5 A.4.5 to A.4.9) and uncompressed video over RTP (8.2.13).
_VIDEO = ("1.2.840.10008.1.2.4.10", "1.2.840.10008.1.2.7.")
#: The pixels are elsewhere, to be fetched over the network.
_REFERENCED = frozenset(f"{_JPEG_FAMILY}{n}" for n in (94, 95, 204, 205))
#: Which of pydicom's decoders and plugins reads which codestream. GDCM only where nothing else does.
_DECODERS: dict[Codec, tuple[UID, str]] = {
    Codec.JPEG_LOSSLESS: (JPEGLosslessSV1, "gdcm"),
    Codec.JPEG_LS: (JPEGLSLossless, "pyjpegls"),
    Codec.JPEG_2000: (JPEG2000Lossless, "pylibjpeg"),
    Codec.HTJ2K: (HTJ2KLossless, "pylibjpeg"),
}
#: JPEG 2000 and JPEG-LS carry their own precision, and pydicom restores the sign from it.
_SELF_DESCRIBING = frozenset({Codec.JPEG_LS, Codec.JPEG_2000, Codec.HTJ2K})


@dataclass(frozen=True, slots=True)
class Shape:
    """The Image Pixel module as far as it decides sizes (PS3.3 C.7.6.3)."""

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


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame: *samples* is [rows, columns] or [rows, columns, 3], integers as stored.

    *photometric* is what the samples are now, which decoding may have changed. A stored value is its sample shifted
    left by *left* and then right by *right* bits, which removes what is not pixel and extends the sign.
    """

    samples: npt.NDArray[Any]
    photometric: str
    stored: int
    left: int = 0
    right: int = 0


def shape_of(header: Header) -> Shape:
    """Read and check an object's shape, without touching its pixels.

    Raises Unreadable: video, no pixels, a photometric interpretation nobody can show, too large, malformed, truncated.
    """
    if header.syntax.startswith(_VIDEO):
        raise Unreadable("video", "the object is a video; pictures are not taken from videos")
    if header.syntax in _REFERENCED:
        raise Unreadable("no_pixels", "the object only refers to pixels kept elsewhere")
    pixels = header.where_pixels_are()
    shape = _claimed(header)
    _check_claims(shape)
    if header.syntax in _NATIVE:
        return _check_length(header, shape, held=pixels.end - pixels.start)
    return shape


def _claimed(header: Header) -> Shape:
    allocated = header.integer("BitsAllocated")
    stored = header.integer("BitsStored", allocated)
    return Shape(
        rows=header.integer("Rows"),
        columns=header.integer("Columns"),
        samples=header.integer("SamplesPerPixel", 1),
        allocated=allocated,
        stored=stored,
        high_bit=header.integer("HighBit", stored - 1),
        signed=header.integer("PixelRepresentation") == 1,
        photometric=header.text("PhotometricInterpretation").upper(),
    )


def _check_claims(shape: Shape) -> None:
    expected = 3 if shape.photometric in COLOUR else 1
    if shape.photometric not in GRAYSCALE | COLOUR | {_PALETTE}:
        raise Unreadable("unknown_photometric", "the photometric interpretation is none that can be shown")
    if shape.samples != expected or shape.allocated not in (1, 8, 16, 32) or not 0 < shape.stored <= shape.allocated:
        raise Unreadable("malformed", "bits, samples and photometric interpretation do not fit together")
    if min(shape.rows, shape.columns) < 1:
        raise Unreadable("malformed", "the picture has no rows or no columns")
    if shape.total > MAX_SAMPLES:
        raise Unreadable("too_large", f"the picture claims more than {MAX_SAMPLES // 1_000_000} million samples")


def _check_length(header: Header, shape: Shape, *, held: int) -> Shape:
    """Native pixels: the element must hold every frame it claims."""
    if shape.photometric == "YBR_FULL_422":
        if held * 8 >= header.frames * shape.total * shape.allocated:
            return replace(shape, photometric="YBR_FULL")  # not subsampled, whatever it says
        needed = header.frames * shape.total * shape.allocated * 2 // 3
    else:
        needed = header.frames * shape.total * shape.allocated
    if held * 8 < needed:
        raise Unreadable("truncated", "the pixel data is shorter than the picture it claims")
    return shape


def decode(header: Header, index: int) -> Frame:
    """Decode frame *index*, counted from 0.

    Raises Unreadable with what is wrong. Source of the sizes: shape_of, and the codestream itself.
    """
    shape = shape_of(header)
    if not 0 <= index < header.frames:
        raise Unreadable("malformed", "there is no such frame")
    with opened(header.path) as (_, _, buffer, _):
        if header.syntax in _NATIVE:
            return _native(header, shape, buffer, index)
        frame = frame_of(header, buffer, index, most=2 * shape.total * shape.allocated // 8 + (64 << 10))
    try:
        return _compressed(header.syntax, shape, frame)
    # What pydicom and its plugins raise for damaged codestreams; there is no common base.
    except (ValueError, RuntimeError, OSError, TypeError, KeyError, AttributeError, struct.error, SyntaxError) as error:
        raise Unreadable("undecodable", "the compressed picture cannot be decoded") from error


def _native(header: Header, shape: Shape, buffer: Buffer, index: int) -> Frame:
    pixels = header.where_pixels_are()
    if pixels.end > len(buffer):
        raise Unreadable("truncated", "the file ends within its pixel data")
    source = io.BytesIO(buffer) if isinstance(buffer, bytes) else buffer
    source.seek(pixels.start)
    # An array over the bytes read: the unused bits are removed by the lookup table, not by passes over the pixels.
    samples, now = get_decoder(header.syntax).as_array(
        cast("Any", source),
        index=index,
        raw=True,
        validate=False,
        **_options(
            shape,
            number_of_frames=header.frames,
            planar_configuration=header.integer("PlanarConfiguration"),
            view_only=True,
            correct_unused_bits=False,
            pixel_vr=pixels.vr.decode() or "OW",
        ),
    )
    return _stored(shape, samples, str(now["photometric_interpretation"]))


def _stored(shape: Shape, samples: npt.NDArray[Any], photometric: str) -> Frame:
    if shape.allocated == 1:
        return Frame(samples, photometric, stored=1)
    left = max(0, shape.allocated - shape.high_bit - 1)
    return Frame(samples, photometric, shape.stored, left=left, right=shape.allocated - shape.stored)


def _options(shape: Shape, **more: Any) -> dict[str, Any]:
    return {
        "rows": shape.rows,
        "columns": shape.columns,
        "samples_per_pixel": shape.samples,
        "bits_allocated": shape.allocated,
        "bits_stored": shape.stored,
        "pixel_representation": int(shape.signed),
        "photometric_interpretation": shape.photometric,
        "planar_configuration": 0,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        **more,
    }


def _compressed(syntax: str, shape: Shape, frame: bytes) -> Frame:
    if shape.total > max(_BOMB_SAMPLES, _BOMB_RATIO * len(frame)):
        raise Unreadable("too_large", "the compressed picture is too small for the size it claims")
    if syntax == RLELossless:
        return _stored(shape, _run_lengths(shape, frame), shape.photometric)
    if not syntax.startswith(_JPEG_FAMILY):
        raise Unreadable("unknown_transfer_syntax", "the pixels are encoded in a way nobody here can read")
    stream = inspect(frame)
    if (stream.rows, stream.columns, stream.samples) != (shape.rows, shape.columns, shape.samples):
        raise Unreadable("malformed", "the compressed picture is not of the size its header claims")
    if stream.codec is Codec.JPEG_8:
        return _jpeg(shape, stream, frame)
    if stream.codec is Codec.JPEG_12:
        pixels = gdcm.decode_12_bit(frame, rows=shape.rows, columns=shape.columns)
        return _stored(shape, np.frombuffer(pixels, "<u2").reshape(shape.rows, shape.columns), shape.photometric)
    uid, plugin = _DECODERS[stream.codec]
    samples, now = get_decoder(uid).as_array(
        encapsulate([frame]), index=0, raw=True, validate=False, decoding_plugin=plugin, **_options(shape)
    )
    photometric = str(now["photometric_interpretation"])
    if stream.codec in _SELF_DESCRIBING:
        return Frame(samples, photometric, shape.stored)
    return _stored(shape, samples, photometric)


def _jpeg(shape: Shape, stream: Codestream, frame: bytes) -> Frame:
    """8-bit JPEG by Pillow, which converts to RGB what is marked as YCbCr, or not marked at all."""
    image = Image.open(io.BytesIO(frame), formats=("JPEG",))
    if shape.samples == 1:
        return Frame(np.asarray(image), shape.photometric, stored=8)
    if shape.photometric == "RGB" and not stream.colour:
        # Unmarked, and the header says RGB: keep Pillow from converting.
        image.draft("YCbCr", image.size)
    return Frame(np.asarray(image), "RGB", stored=8)


def _run_lengths(shape: Shape, frame: bytes) -> npt.NDArray[Any]:
    """RLE Lossless (PS3.5 G): a segment for each byte of each sample, most significant first.

    By Pillow's PackBits, which stops at the size it is given; pydicom expands a segment to whatever it says.
    """
    size, width = shape.rows * shape.columns, shape.allocated // 8
    count, *offsets = struct.unpack_from("<16L", frame)
    if width == 0 or count != shape.samples * width or count > len(offsets):
        raise Unreadable("undecodable", "the number of RLE segments does not fit the picture")
    ends = [*offsets[1:count], len(frame)]
    planes = np.empty((shape.samples, size, width), np.uint8)
    for number, (start, end) in enumerate(zip(offsets[:count], ends, strict=True)):
        segment = Image.frombytes("L", (size, 1), frame[start:end], "packbits", "L")
        planes[number // width, :, width - 1 - number % width] = np.asarray(segment)[0]
    samples = planes.view(f"<{'i' if shape.signed else 'u'}{width}").reshape(shape.samples, shape.rows, shape.columns)
    return samples[0] if shape.samples == 1 else np.moveaxis(samples, 0, -1)
