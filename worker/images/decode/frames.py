"""Decode single frames of an object to the stored samples."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pydicom.pixels.decoders.base import get_decoder

from db.errors import Reason
from worker.images.decode.compressed import as_stored, decode_compressed, pydicom_options
from worker.images.decode.encapsulated import Codestreams
from worker.images.decode.files import opened
from worker.images.decode.image_pixel import NATIVE, shape_of
from worker.images.decode.samples import Frame
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from worker.images.decode.header import Header
    from worker.images.decode.image_pixel import Shape

#: Bytes of a compressed frame beyond twice its uncompressed size: room for the tables of small frames.
_TABLES = 64 << 10


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
                return decode_compressed(header.syntax, shape, streams.read(index, limit))
            # Errors of pydicom and its plugins for damaged pixels; they have no common base.
            except (ValueError, RuntimeError, OSError, LookupError, TypeError, AttributeError) as error:
                raise Unreadable(Reason.UNDECODABLE, "the image cannot be decoded") from error
            except (struct.error, SyntaxError, OverflowError) as error:
                raise Unreadable(Reason.UNDECODABLE, "the image cannot be decoded") from error

        yield decode_frame


def _decode_native(header: Header, shape: Shape, buffer: mmap.mmap, index: int) -> Frame:
    pixels = header.pixel_data()
    if pixels.end > len(buffer):
        raise Unreadable(Reason.TRUNCATED, "the pixel data is truncated")
    if shape.allocated == 1:
        return Frame(_unpack_bits(shape, buffer, pixels.start, index), shape.photometric, stored=1)
    buffer.seek(pixels.start)
    # An array over the bytes read: the lookup table removes the unused bits, which spares passes over the pixels.
    samples, properties = get_decoder(header.syntax).as_array(
        cast("Any", buffer),
        index=index,
        raw=True,
        validate=False,
        **pydicom_options(
            shape,
            number_of_frames=header.frames,
            planar_configuration=header.integer("PlanarConfiguration"),
            view_only=True,
            correct_unused_bits=False,
            pixel_vr=pixels.vr.decode() or "OW",
        ),
    )
    return as_stored(shape, samples, str(properties["photometric_interpretation"]))


def _unpack_bits(shape: Shape, buffer: mmap.mmap, start: int, index: int) -> npt.NDArray[np.uint8]:
    """Unpack a frame of one bit per pixel: the first in the lowest bit, no gap between frames (PS3.5 8.1.1)."""
    first, last = index * shape.total, (index + 1) * shape.total
    packed = np.frombuffer(buffer[start + first // 8 : start - (-last // 8)], np.uint8)
    bits = np.unpackbits(packed, bitorder="little")[first % 8 :][: shape.total]
    size = (shape.rows, shape.columns)
    return bits.reshape((*size, shape.samples) if shape.samples > 1 else size)
