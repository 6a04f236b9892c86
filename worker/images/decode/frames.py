"""Decode single frames of an object to the stored samples."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from db.errors import Reason
from db.studies.transfer_syntaxes import (
    DEFLATED_FRAMES,
    ENCAPSULATED_UNCOMPRESSED,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    GE_PRIVATE_BIG_ENDIAN,
    NATIVE,
)
from worker.images.decode.compressed import DECODER_ERRORS, as_stored, decode_compressed, pydicom_options
from worker.images.decode.encapsulated import Codestreams
from worker.images.decode.files import opened
from worker.images.decode.image_pixel import shape_of
from worker.images.decode.samples import Frame
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from worker.images.decode.elements import Buffer
    from worker.images.decode.header import Header
    from worker.images.decode.image_pixel import Shape

#: Bytes of a compressed frame beyond twice its uncompressed size: room for the tables of small frames.
_TABLES = 64 << 10
#: Transfer syntax that has the same layout of Pixel Data, for those that pydicom does not know.
_LAYOUTS = {
    GE_PRIVATE_BIG_ENDIAN: EXPLICIT_VR_BIG_ENDIAN,
    ENCAPSULATED_UNCOMPRESSED: EXPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_FRAMES: EXPLICIT_VR_LITTLE_ENDIAN,
}
#: Each fragment is a frame of native samples, or one deflated (PS3.5 A.4.11 and A.4.13).
_UNCOMPRESSED_FRAMES = frozenset((ENCAPSULATED_UNCOMPRESSED, DEFLATED_FRAMES))


def decode(header: Header, index: int) -> Frame:
    """Decode frame *index*, counted from 0. Raises Unreadable."""
    with decoding(header) as decode_frame:
        return decode_frame(index)


@contextmanager
def decoding(header: Header) -> Iterator[Callable[[int], Frame]]:
    """Open an object once to decode many of its frames; yields a function like `decode`. Raises Unreadable."""
    shape = shape_of(header)
    with opened(header.path) as (_, _, buffer, _):
        streams = None if header.syntax in NATIVE else Codestreams(header, buffer)

        def decode_frame(index: int) -> Frame:
            if not 0 <= index < header.frames:
                raise Unreadable(Reason.MALFORMED, "the frame does not exist")
            try:
                if streams is None:
                    return _decode_native(header, shape, buffer, index)
                limit = 2 * shape.total * max(8, shape.allocated) // 8 + _TABLES
                if header.syntax in _UNCOMPRESSED_FRAMES:
                    return _decode_fragment(header, shape, streams.read(index, limit))
                return decode_compressed(header.syntax, shape, streams.read(index, limit))
            except (*DECODER_ERRORS, struct.error, zlib.error) as error:
                raise Unreadable(Reason.UNDECODABLE, "the image cannot be decoded") from error

        yield decode_frame


def _decode_native(header: Header, shape: Shape, buffer: mmap.mmap, index: int) -> Frame:
    pixels = header.pixel_data()
    if pixels.end > len(buffer):
        raise Unreadable(Reason.TRUNCATED, "the pixel data is truncated")
    if shape.allocated == 1:
        return Frame(_unpack_bits(shape, buffer, pixels.start, index), shape.photometric, stored=1)
    buffer.seek(pixels.start)
    vr = pixels.vr.decode() or "OW"
    return _native_samples(header, shape, buffer, index=index, number_of_frames=header.frames, pixel_vr=vr)


def _native_samples(
    header: Header, shape: Shape, source: mmap.mmap | io.BytesIO, *, index: int, **options: Any
) -> Frame:
    """Read frame *index* of native samples from the position of *source*."""
    # An array over the bytes read: the lookup table removes the unused bits, which spares passes over the pixels.
    samples, properties = get_decoder(UID(_LAYOUTS.get(header.syntax, header.syntax))).as_array(
        cast("Any", source),
        index=index,
        raw=True,
        validate=False,
        **pydicom_options(
            shape,
            planar_configuration=header.integer("PlanarConfiguration"),
            view_only=True,
            correct_unused_bits=False,
            **options,
        ),
    )
    return as_stored(shape, samples, str(properties["photometric_interpretation"]))


def _decode_fragment(header: Header, shape: Shape, frame: bytes) -> Frame:
    """Decode one frame of native samples from its fragment, inflated if the transfer syntax deflates frames."""
    size = -(-shape.total * shape.allocated // 8)
    if header.syntax == DEFLATED_FRAMES:
        frame = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, size)
    if shape.photometric == "YBR_FULL_422":
        if len(frame) >= size:
            shape = shape._replace(photometric="YBR_FULL")  # not subsampled, although declared so
        else:
            size = size * 2 // 3
    if len(frame) < size:
        raise Unreadable(Reason.TRUNCATED, "the pixel data is shorter than the declared image")
    if shape.allocated == 1:
        return Frame(_unpack_bits(shape, frame, 0, 0), shape.photometric, stored=1)
    return _native_samples(header, shape, io.BytesIO(frame), index=0, number_of_frames=1, pixel_vr="OB")


def _unpack_bits(shape: Shape, buffer: Buffer, start: int, index: int) -> npt.NDArray[np.uint8]:
    """Unpack a frame of one bit per pixel: the first in the lowest bit, no gap between frames (PS3.5 8.1.1)."""
    first, last = index * shape.total, (index + 1) * shape.total
    packed = np.frombuffer(buffer[start + first // 8 : start - (-last // 8)], np.uint8)
    bits = np.unpackbits(packed, bitorder="little")[first % 8 :][: shape.total]
    size = (shape.rows, shape.columns)
    return bits.reshape((*size, shape.samples) if shape.samples > 1 else size)
