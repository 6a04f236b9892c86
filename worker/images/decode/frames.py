"""One frame of one object, decoded to the samples that were stored, with every claim checked before memory is taken."""

from __future__ import annotations

import io
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

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

from db.errors import Reason
from worker.images.decode import gdcm
from worker.images.decode.codestream import Codec, Codestream, inspect
from worker.images.decode.elements import UNDEFINED
from worker.images.decode.encapsulated import Codestreams
from worker.images.decode.files import opened
from worker.images.decode.jpeg_integrity import decoded_whole
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from worker.images.decode.header import Header

#: Bytes of one decoded frame. A 24-megapixel photograph has 72 million, a mammogram of 16 bits 60 million. Decoding
#: takes two to four times as much, so this keeps a hostile file below 300 MiB.
MAX_BYTES = 80_000_000
#: Frames of one object: a slide of 128 000 x 128 000 pixels in tiles of 256.
MAX_FRAMES = 250_000
#: A compressed frame is never smaller, its item's own header included.
_LEAST_FRAME = 16
#: Samples of a frame from which on it must not be smaller than a thousandth of its size, whatever the codec could do.
_BOMB_SAMPLES, _BOMB_RATIO = 16_000_000, 1000
#: An RLE segment makes at most 128 bytes of 2 (PS3.5 G.3.1).
_RUN_LENGTH_RATIO = 64

GRAYSCALE = frozenset({"MONOCHROME1", "MONOCHROME2"})
COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"})
_PALETTE = "PALETTE COLOR"
_PHOTOMETRIC = GRAYSCALE | COLOUR | {_PALETTE}

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
#: GDCM's images pass through a string, which holds them four times.
_MOST = {Codec.JPEG_LOSSLESS: 60_000_000, Codec.JPEG_12: 60_000_000}
#: OpenJPEG holds every sample in 4 bytes.
_FOUR_BYTES, _MOST_WIDE = frozenset({Codec.JPEG_2000, Codec.HTJ2K}), 36_000_000
#: All coefficients of a progressive image are held before the first row is made.
_MOST_PROGRESSIVE = 48_000_000
#: Rows taken from Pillow at a time.
_PART = 256


class Shape(NamedTuple):
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

    @property
    def size(self) -> int:
        """Bytes of one frame when it is decoded, or when its palette is looked up."""
        return max(self.total * max(8, self.allocated) // 8, 3 * self.total * (self.photometric == _PALETTE))


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
        raise Unreadable(Reason.VIDEO, "the object is a video, which is not supported")
    if header.syntax in _REFERENCED:
        raise Unreadable(Reason.NO_PIXELS, "the pixel data is stored outside the object")
    pixels = header.where_pixels_are()
    shape = _claimed(header)
    _check_claims(shape)
    if header.frames > MAX_FRAMES:
        raise Unreadable(Reason.TOO_LARGE, f"the object declares more than {MAX_FRAMES} frames")
    held = pixels.end - pixels.start
    if header.syntax in _NATIVE:
        if pixels.length == UNDEFINED:
            raise Unreadable(
                Reason.MALFORMED, "the pixel data is compressed although the transfer syntax is uncompressed"
            )
        return _check_length(header, shape, held=held)
    if held < header.frames * _LEAST_FRAME:
        raise Unreadable(Reason.TRUNCATED, "the pixel data is shorter than the declared frames")
    return shape


def _claimed(header: Header) -> Shape:
    allocated = header.integer("BitsAllocated")
    stored = header.integer("BitsStored", allocated)
    high_bit = header.integer("HighBit", stored - 1)
    return Shape(
        rows=header.integer("Rows"),
        columns=header.integer("Columns"),
        samples=header.integer("SamplesPerPixel", 1),
        allocated=allocated,
        stored=stored,
        # Where the pixel does not fit below it, High Bit is a mistake.
        high_bit=high_bit if stored - 1 <= high_bit < allocated else stored - 1,
        signed=header.integer("PixelRepresentation") == 1 and stored > 1,
        photometric=header.text("PhotometricInterpretation").upper(),
    )


def _check_claims(shape: Shape) -> None:
    expected = 3 if shape.photometric in COLOUR else 1
    if shape.photometric not in _PHOTOMETRIC:
        raise Unreadable(Reason.UNKNOWN_PHOTOMETRIC, "the photometric interpretation is not supported")
    if shape.samples != expected or shape.allocated not in (1, 8, 16, 32) or not 0 < shape.stored <= shape.allocated:
        raise Unreadable(
            Reason.MALFORMED, "bit depth, samples per pixel and photometric interpretation are inconsistent"
        )
    if min(shape.rows, shape.columns) < 1:
        raise Unreadable(Reason.MALFORMED, "the number of rows or columns is zero")
    if shape.size > MAX_BYTES:
        raise Unreadable(Reason.TOO_LARGE, f"the image exceeds {MAX_BYTES // 1_000_000} million bytes")


def _check_length(header: Header, shape: Shape, *, held: int) -> Shape:
    """Native pixels: the element must hold every frame it claims."""
    if shape.photometric == "YBR_FULL_422":
        if held * 8 >= header.frames * shape.total * shape.allocated:
            return shape._replace(photometric="YBR_FULL")  # not subsampled, whatever it says
        needed = header.frames * shape.total * shape.allocated * 2 // 3
    else:
        needed = header.frames * shape.total * shape.allocated
    if held * 8 < needed:
        raise Unreadable(Reason.TRUNCATED, "the pixel data is shorter than the declared image")
    return shape


def decode(header: Header, index: int) -> Frame:
    """Decode frame *index*, counted from 0.

    Raises Unreadable with what is wrong. Source of the sizes: shape_of, and the codestream itself.
    """
    with decoding(header) as frame:
        return frame(index)


@contextmanager
def decoding(header: Header) -> Iterator[Callable[[int], Frame]]:
    """Open an object once to decode many of its frames; what is yielded does what decode does."""
    shape = shape_of(header)
    with opened(header.path) as (_, _, buffer, _):
        native = header.syntax in _NATIVE
        streams = None if native else Codestreams(header, buffer)

        def frame(index: int) -> Frame:
            if not 0 <= index < header.frames:
                raise Unreadable(Reason.MALFORMED, "the frame does not exist")
            try:
                if streams is None:
                    return _native(header, shape, buffer, index)
                most = 2 * shape.total * max(8, shape.allocated) // 8 + (64 << 10)
                return _compressed(header.syntax, shape, streams.of(index, most))
            # What pydicom and its plugins raise for damaged pixels; there is no common base.
            except (ValueError, RuntimeError, OSError, LookupError, TypeError, AttributeError) as error:
                raise Unreadable(Reason.UNDECODABLE, "the image cannot be decoded") from error
            except (struct.error, SyntaxError, OverflowError) as error:
                raise Unreadable(Reason.UNDECODABLE, "the image cannot be decoded") from error

        yield frame


def _native(header: Header, shape: Shape, buffer: mmap.mmap, index: int) -> Frame:
    pixels = header.where_pixels_are()
    if pixels.end > len(buffer):
        raise Unreadable(Reason.TRUNCATED, "the pixel data is truncated")
    if shape.allocated == 1:
        return Frame(_single_bits(shape, buffer, pixels.start, index), shape.photometric, stored=1)
    buffer.seek(pixels.start)
    # An array over the bytes read: the unused bits are removed by the lookup table, not by passes over the pixels.
    samples, now = get_decoder(header.syntax).as_array(
        cast("Any", buffer),
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


def _single_bits(shape: Shape, buffer: mmap.mmap, start: int, index: int) -> npt.NDArray[np.uint8]:
    """Eight pixels a byte, the first in the lowest bit; frames follow each other without a gap (PS3.5 8.1.1)."""
    first, last = index * shape.total, (index + 1) * shape.total
    packed = np.frombuffer(buffer[start + first // 8 : start - (-last // 8)], np.uint8)
    bits = np.unpackbits(packed, bitorder="little")[first % 8 :][: shape.total]
    return bits.reshape(
        (shape.rows, shape.columns, shape.samples) if shape.samples > 1 else (shape.rows, shape.columns)
    )


def _stored(shape: Shape, samples: npt.NDArray[Any], photometric: str) -> Frame:
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
        raise Unreadable(Reason.TOO_LARGE, "the compressed data is too small for the declared image size")
    if syntax == RLELossless:
        if shape.total * shape.allocated // 8 > _RUN_LENGTH_RATIO * len(frame):
            raise Unreadable(Reason.TRUNCATED, "the compressed data is too short for the declared image size")
        return _stored(shape, _run_lengths(shape, frame), shape.photometric)
    if not syntax.startswith(_JPEG_FAMILY):
        raise Unreadable(Reason.UNKNOWN_TRANSFER_SYNTAX, "the transfer syntax is not supported")
    stream = inspect(frame)
    if (stream.rows, stream.columns, stream.samples) != (shape.rows, shape.columns, shape.samples):
        raise Unreadable(Reason.MALFORMED, "the size of the compressed image differs from its header")
    wide = stream.codec in _FOUR_BYTES and shape.total > _MOST_WIDE
    if wide or shape.size > (_MOST_PROGRESSIVE if stream.progressive else _MOST.get(stream.codec, MAX_BYTES)):
        raise Unreadable(Reason.TOO_LARGE, "the image is too large for its compression")
    if stream.codec is Codec.JPEG_8:
        samples = decoded_whole(frame, stream, lambda bits: _jpeg(shape, stream, bits))
        return Frame(samples, shape.photometric if shape.samples == 1 else "RGB", stored=8)
    if stream.codec is Codec.JPEG_12:
        samples = decoded_whole(
            frame, stream, lambda bits: [gdcm.decode_12_bit(bits, rows=shape.rows, columns=shape.columns)]
        )
        return _stored(shape, samples, shape.photometric)
    if stream.codec is Codec.JPEG_LOSSLESS:
        return _lossless(shape, stream, frame)
    # JPEG 2000 and JPEG-LS carry their own precision, and pydicom restores the sign from it.
    samples, photometric = _by_pydicom(shape, stream, frame)
    return Frame(samples, photometric, shape.stored)


def _lossless(shape: Shape, stream: Codestream, frame: bytes) -> Frame:
    photometric = shape.photometric

    def decode(bits: bytes) -> list[npt.NDArray[Any]]:
        nonlocal photometric
        with gdcm.quiet():
            samples, photometric = _by_pydicom(shape, stream, bits)
        return [samples]

    samples = decoded_whole(frame, stream, decode)
    return _stored(shape, samples, photometric)


def _by_pydicom(shape: Shape, stream: Codestream, frame: bytes) -> tuple[npt.NDArray[Any], str]:
    uid, plugin = _DECODERS[stream.codec]
    samples, now = get_decoder(uid).as_array(
        encapsulate([frame]), index=0, raw=True, validate=False, decoding_plugin=plugin, **_options(shape)
    )
    return samples, str(now["photometric_interpretation"])


def _jpeg(shape: Shape, stream: Codestream, frame: bytes) -> Iterator[npt.NDArray[np.uint8]]:
    """8-bit JPEG by Pillow, which converts to RGB what is marked as YCbCr or not at all; some rows at a time."""
    image = Image.open(io.BytesIO(frame), formats=("JPEG",))
    if shape.photometric == "RGB" and not stream.colour and shape.samples > 1:
        # Unmarked, and the header says RGB: keep Pillow from converting.
        image.draft("YCbCr", image.size)
    # In parts: Pillow hands an image over in pieces and then joins them, which holds all of it thrice.
    for top in range(0, shape.rows, _PART):
        yield np.asarray(image.crop((0, top, shape.columns, min(top + _PART, shape.rows))))


def _run_lengths(shape: Shape, frame: bytes) -> npt.NDArray[Any]:
    """RLE Lossless (PS3.5 G): a segment for each byte of each sample, most significant first.

    By Pillow's PackBits, which stops at the size it is given; pydicom expands a segment to whatever it says.
    """
    size, width = shape.rows * shape.columns, shape.allocated // 8
    count, *offsets = struct.unpack_from("<16L", frame)
    if width == 0 or count != shape.samples * width or count > len(offsets):
        raise Unreadable(Reason.UNDECODABLE, "the number of RLE segments does not match the image")
    ends = [*offsets[1:count], len(frame)]
    planes = np.empty((shape.samples, size, width), np.uint8)
    for number, (start, end) in enumerate(zip(offsets[:count], ends, strict=True)):
        segment = Image.frombytes("L", (size, 1), frame[start:end], "packbits", "L")
        planes[number // width, :, width - 1 - number % width] = np.asarray(segment)[0]
    samples = planes.view(f"<{'i' if shape.signed else 'u'}{width}").reshape(shape.samples, shape.rows, shape.columns)
    return samples[0] if shape.samples == 1 else np.moveaxis(samples, 0, -1)
