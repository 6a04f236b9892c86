"""Inspect the header of a compressed frame before it is decoded.

Decoders do not check their codestream: for 910 bytes that declare 65535 x 65535, one allocated gigabytes, and some
return a full-size image for half a stream. So size, number of samples and end marker are checked here first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import Enum

from db.errors import Reason
from worker.images.errors import Unreadable


class Codec(Enum):
    """Kind of codestream. It is read from the codestream, because transfer syntaxes are sometimes wrong."""

    JPEG_8 = "JPEG"
    JPEG_12 = "JPEG 12 bit"
    JPEG_LOSSLESS = "JPEG lossless"
    JPEG_LS = "JPEG-LS"
    JPEG_2000 = "JPEG 2000"
    HTJ2K = "HTJ2K"


@dataclass(frozen=True, slots=True)
class Codestream:
    """Properties that one compressed frame declares."""

    codec: Codec
    rows: int
    columns: int
    samples: int
    #: JPEG only: "RGB" or "YBR" if the stream is marked as such, else empty.
    colour: str = ""
    progressive: bool = False
    #: JPEG only: offset of the data of the first scan.
    data: int = 0


_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_J2K_START, _J2K_BOX = b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "
_DCT_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_PROGRESSIVE_FRAMES = frozenset({0xC2, 0xCA})
_LOSSLESS_FRAMES = frozenset({0xC3, 0xCB})
_LS_FRAME = 0xF7
#: Bytes accepted after the end marker: some encoders leave a few.
_MAX_TRAILING = 64
_SCAN, _APP0, _APP14 = 0xDA, 0xE0, 0xEE
#: Transform byte of an Adobe marker: 0 is RGB, 1 is YCbCr.
_ADOBE_COLOURS = {0: "RGB", 1: "YBR"}


def inspect(frame: bytes) -> Codestream:
    """Return the size and kind of a compressed frame (ITU-T T.81 B.2, T.87 C.2, T.800 A.5).

    Raises Unreadable if *frame* is not a codestream or its end marker is missing.
    """
    start = frame.find(_J2K_START) if frame.startswith(_J2K_BOX) else 0
    if frame[start : start + 4] != _J2K_START and not frame.startswith(_SOI):
        raise Unreadable(Reason.UNDECODABLE, "the compression format is unknown")
    # Encoders pad to even length with 00 or FF.
    if frame.rfind(_EOI, max(0, len(frame.rstrip(b"\0\xff")) - _MAX_TRAILING)) < 0:
        raise Unreadable(Reason.TRUNCATED, "the end of the compressed image is missing")
    return _jpeg(frame) if frame.startswith(_SOI) else _jpeg_2000(frame, start)


def _jpeg(frame: bytes) -> Codestream:
    position, colour, found = 2, "", None
    while position + 4 <= len(frame) and frame[position] == 0xFF:  # noqa: PLR2004 - every marker begins with FF
        marker = frame[position + 1]
        if marker == 0xFF:  # noqa: PLR2004 - a fill byte
            position += 1
            continue
        length = int.from_bytes(frame[position + 2 : position + 4])
        segment = frame[position + 4 : position + 2 + length]
        codec = _jpeg_codec(marker, segment)
        position += 2 + length
        if marker == _SCAN and found:
            return replace(found, data=position)
        if codec:
            rows, columns, samples = struct.unpack_from(">HHB", segment, 1)
            colour = colour or _colour_of_ids(segment)
            found = Codestream(codec, rows, columns, samples, colour, marker in _PROGRESSIVE_FRAMES)
        colour = _colour(marker, segment) or colour
    raise Unreadable(Reason.UNDECODABLE, "the frame header of the compressed image is missing")


def _jpeg_codec(marker: int, segment: bytes) -> Codec | None:
    if len(segment) < 6:  # noqa: PLR2004 - precision, rows, columns, samples
        return None
    if marker in _DCT_FRAMES:
        return Codec.JPEG_8 if segment[0] == 8 else Codec.JPEG_12  # noqa: PLR2004 - bits of precision
    if marker in _LOSSLESS_FRAMES:
        return Codec.JPEG_LOSSLESS
    return Codec.JPEG_LS if marker == _LS_FRAME else None


def _colour(marker: int, segment: bytes) -> str:
    if marker == _APP14 and segment.startswith(b"Adobe") and len(segment) > 11:  # noqa: PLR2004 - T.872 6.5.3
        return _ADOBE_COLOURS.get(segment[11], "")
    return "YBR" if marker == _APP0 and segment.startswith(b"JFIF") else ""


def _colour_of_ids(segment: bytes) -> str:
    """Return "RGB" if the component ids spell it: libjpeg writes them when it writes no marker."""
    return "RGB" if segment[6::3][:3].upper() == b"RGB" else ""


def _jpeg_2000(frame: bytes, start: int) -> Codestream:
    if len(frame) < start + 42:
        raise Unreadable(Reason.TRUNCATED, "the header of the compressed image is truncated")
    capabilities, right, bottom, left, top = struct.unpack_from(">HIIII", frame, start + 6)
    (samples,) = struct.unpack_from(">H", frame, start + 40)
    # Bit 14 of the capabilities: ITU-T T.814, high throughput.
    codec = Codec.HTJ2K if capabilities & 0x4000 else Codec.JPEG_2000
    return Codestream(codec, bottom - top, right - left, samples)
