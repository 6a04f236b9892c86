"""Decode one compressed frame; its codestream is compared with the header first."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from db.errors import Reason
from worker.images.decode import gdcm
from worker.images.decode.codestream import Codec, Codestream, colours_of, inspect, without_boxes
from worker.images.decode.image_pixel import MAX_FRAME_BYTES
from worker.images.decode.jpeg_integrity import decode_completely
from worker.images.decode.samples import Frame
from worker.images.decode.second_decoder import decode_in_child
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from worker.images.decode.image_pixel import Shape

#: Samples of a frame above which its codestream must have at least a thousandth of its size, for any codec.
_BOMB_SAMPLES, _BOMB_RATIO = 16_000_000, 1000
#: An RLE segment expands 2 bytes to at most 128 (PS3.5 G.3.1).
_RLE_RATIO = 64
#: Decoder and plugin of pydicom for each kind of codestream; GDCM only where there is no other.
_DECODERS: dict[Codec, tuple[UID, str]] = {
    Codec.JPEG_LOSSLESS: (JPEGLosslessSV1, "gdcm"),
    Codec.JPEG_LS: (JPEGLSLossless, "pyjpegls"),
    Codec.JPEG_2000: (JPEG2000Lossless, "pylibjpeg"),
    Codec.HTJ2K: (HTJ2KLossless, "pylibjpeg"),
}
#: The next ones, in a process of their own. They read the codestream, so that JPEG 2000 stands for HTJ2K.
_OTHER_DECODERS: dict[Codec, tuple[tuple[UID, str], ...]] = {
    Codec.JPEG_8: ((JPEGBaseline8Bit, "gdcm"),),
    Codec.JPEG_LS: ((JPEGLSLossless, "gdcm"),),
    Codec.JPEG_2000: ((JPEG2000Lossless, "gdcm"), (JPEG2000Lossless, "pillow")),
    Codec.HTJ2K: ((JPEG2000Lossless, "pillow"), (JPEG2000Lossless, "gdcm")),
}
#: Codestreams whose end is the end of the image.
_SEQUENTIAL = frozenset({Codec.JPEG_8, Codec.JPEG_LS})
#: Errors of pydicom and its plugins for a frame that they refuse; they have no common base.
DECODER_ERRORS = (ValueError, RuntimeError, OSError, LookupError, TypeError, AttributeError, SyntaxError, OverflowError)
#: Bytes of a frame decoded by GDCM, whose images pass through a string that holds them four times.
_MAX_GDCM_BYTES = {Codec.JPEG_LOSSLESS: 60_000_000, Codec.JPEG_12: 60_000_000}
#: Bytes of a progressive frame: all its coefficients are held before the first row is made.
_MAX_PROGRESSIVE_BYTES = 48_000_000
#: Samples of a frame decoded by OpenJPEG, which holds each in 4 bytes.
_MAX_OPENJPEG_SAMPLES, _OPENJPEG = 36_000_000, frozenset({Codec.JPEG_2000, Codec.HTJ2K})
#: Rows taken from Pillow at a time.
_STRIP_ROWS = 256


def decode_compressed(syntax: str, shape: Shape, frame: bytes) -> Frame:
    """Decode the codestream of one frame. Raises Unreadable, and any error of a decoder for damaged data."""
    if shape.total > max(_BOMB_SAMPLES, _BOMB_RATIO * len(frame)):
        raise Unreadable(Reason.TOO_LARGE, "the compressed data is too small for the declared image size")
    if syntax == RLELossless:
        if shape.total * shape.allocated // 8 > _RLE_RATIO * len(frame):
            raise Unreadable(Reason.TRUNCATED, "the compressed data is too short for the declared image size")
        return as_stored(shape, _decode_rle(shape, frame), shape.photometric)
    frame = without_boxes(frame)
    stream = inspect(frame)
    _compare(shape, stream)
    try:
        found = replace(_decode_jpeg(shape, stream, frame), decoder=_name_of(stream.codec))
    except DECODER_ERRORS:
        if (other := _decode_by_another(shape, stream, frame)) is None:
            raise
        found = other
    return _described_by(shape, stream, found)


def _described_by(shape: Shape, stream: Codestream, found: Frame) -> Frame:
    """Return a frame with the colour space and the error of its codestream."""
    found = replace(found, error=stream.error)
    # Pillow converts 8-bit JPEG to RGB.
    if shape.samples == 1 or stream.codec is Codec.JPEG_8:
        return found
    photometric, problem = colours_of(stream, shape.photometric)
    return replace(found, photometric=photometric, colour_problem=problem)


def as_stored(shape: Shape, samples: npt.NDArray[Any], photometric: str) -> Frame:
    """Return a frame whose samples still hold the unused bits."""
    left = max(0, shape.allocated - shape.high_bit - 1)
    return Frame(samples, photometric, shape.stored, left=left, right=shape.allocated - shape.stored)


def pydicom_options(shape: Shape, **changes: Any) -> dict[str, Any]:
    """Return the options of pydicom's decoders for one frame, with *changes*."""
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
        **changes,
    }


def _compare(shape: Shape, stream: Codestream) -> None:
    if (stream.rows, stream.columns, stream.samples) != (shape.rows, shape.columns, shape.samples):
        raise Unreadable(Reason.MALFORMED, "the size of the compressed image differs from its header")
    limit = _MAX_PROGRESSIVE_BYTES if stream.progressive else _MAX_GDCM_BYTES.get(stream.codec, MAX_FRAME_BYTES)
    if shape.size > limit or (stream.codec in _OPENJPEG and shape.total > _MAX_OPENJPEG_SAMPLES):
        raise Unreadable(Reason.TOO_LARGE, "the image is too large for its compression format")


def _decode_jpeg(shape: Shape, stream: Codestream, frame: bytes) -> Frame:
    if stream.codec is Codec.JPEG_8:
        samples = decode_completely(frame, stream, lambda bits: _decode_8_bit(shape, stream, bits))
        return Frame(samples, shape.photometric if shape.samples == 1 else "RGB", stored=8)
    if stream.codec is Codec.JPEG_12:
        samples = decode_completely(
            frame, stream, lambda bits: [gdcm.decode_12_bit(bits, rows=shape.rows, columns=shape.columns)]
        )
        return as_stored(shape, samples, shape.photometric)
    if stream.codec is Codec.JPEG_LOSSLESS:
        return _decode_lossless(shape, stream, frame)
    # JPEG 2000 and JPEG-LS carry their own precision, from which pydicom restores the sign.
    samples, photometric = _decode_by_pydicom(shape, stream, frame)
    return Frame(samples, photometric, shape.stored)


def _name_of(codec: Codec) -> str:
    return _DECODERS[codec][1] if codec in _DECODERS else "gdcm" if codec is Codec.JPEG_12 else "pillow"


def _decode_by_another(shape: Shape, stream: Codestream, frame: bytes) -> Frame | None:
    """Decode by the other decoders of a codec; None if there is none, or none returns an image of the right size."""
    # GDCM does not undo the colour transform of 8-bit JPEG.
    if stream.codec is Codec.JPEG_8 and shape.samples > 1:
        return None
    options = {name: str(value) if isinstance(value, str) else value for name, value in pydicom_options(shape).items()}
    for uid, plugin in _OTHER_DECODERS.get(stream.codec, ()):
        found = decode_in_child(frame, uid, plugin, options, sequential=stream.codec in _SEQUENTIAL)
        if found is not None and _is_image(shape, found[0]):
            return Frame(found[0], found[1], 8 if stream.codec is Codec.JPEG_8 else shape.stored, decoder=plugin)
    return None


def _is_image(shape: Shape, samples: npt.NDArray[Any]) -> bool:
    """Return whether samples have the size and type that the header declares."""
    size = (shape.rows, shape.columns) + (shape.samples,) * (shape.samples > 1)
    return samples.shape == size and samples.dtype.itemsize * 8 >= shape.stored and samples.dtype.kind in "iu"


def _decode_lossless(shape: Shape, stream: Codestream, frame: bytes) -> Frame:
    photometric = shape.photometric

    def decode(bits: bytes) -> list[npt.NDArray[Any]]:
        nonlocal photometric
        with gdcm.quiet():
            samples, photometric = _decode_by_pydicom(shape, stream, bits)
        return [samples]

    samples = decode_completely(frame, stream, decode)
    return as_stored(shape, samples, photometric)


def _decode_by_pydicom(shape: Shape, stream: Codestream, frame: bytes) -> tuple[npt.NDArray[Any], str]:
    uid, plugin = _DECODERS[stream.codec]
    samples, properties = get_decoder(uid).as_array(
        encapsulate([frame]), index=0, raw=True, validate=False, decoding_plugin=plugin, **pydicom_options(shape)
    )
    return samples, str(properties["photometric_interpretation"])


def _decode_8_bit(shape: Shape, stream: Codestream, frame: bytes) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield an 8-bit JPEG by Pillow, some rows at a time; unmarked streams and YCbCr are converted to RGB."""
    image = Image.open(io.BytesIO(frame), formats=("JPEG",))
    converts = stream.jfif or stream.colour != "RGB"
    is_rgb = stream.colour == "RGB" or (shape.photometric == "RGB" and not stream.colour and not stream.jfif)
    if converts and is_rgb and shape.samples > 1:
        # The samples are RGB by the Adobe marker, the component ids or the header alone: prevent Pillow's conversion.
        image.draft("YCbCr", image.size)
    # In strips: Pillow exports an image in pieces and then joins them, which holds it three times.
    for top in range(0, shape.rows, _STRIP_ROWS):
        yield np.asarray(image.crop((0, top, shape.columns, min(top + _STRIP_ROWS, shape.rows))))


def _decode_rle(shape: Shape, frame: bytes) -> npt.NDArray[Any]:
    """Decode RLE Lossless (PS3.5 G): a segment for each byte of each sample, most significant first."""
    size, width = shape.rows * shape.columns, shape.allocated // 8
    count, *offsets = struct.unpack_from("<16L", frame)
    if width == 0 or count != shape.samples * width or count > len(offsets):
        raise Unreadable(Reason.UNDECODABLE, "the number of RLE segments does not match the image")
    ends = [*offsets[1:count], len(frame)]
    planes = np.empty((shape.samples, size, width), np.uint8)
    for number, (start, end) in enumerate(zip(offsets[:count], ends, strict=True)):
        # Pillow's PackBits stops at the given size; pydicom expands a segment to any size.
        segment = Image.frombytes("L", (size, 1), frame[start:end], "packbits", "L")
        planes[number // width, :, width - 1 - number % width] = np.asarray(segment)[0]
    samples = planes.view(f"<{'i' if shape.signed else 'u'}{width}").reshape(shape.samples, shape.rows, shape.columns)
    return samples[0] if shape.samples == 1 else np.moveaxis(samples, 0, -1)
