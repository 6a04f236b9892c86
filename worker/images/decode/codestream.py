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
    #: "RGB" or "YBR" if the stream states what its samples are after decoding, else empty. JPEG 2000: "RGB" if it has a
    #: component transform, which every decoder undoes; JPEG: by the Adobe marker or the component ids.
    colour: str = ""
    #: JPEG only: marked as JFIF, whose samples are YCbCr.
    jfif: bool = False
    progressive: bool = False
    #: Largest error of a sample, in levels; JPEG-LS states it, for other lossy streams it is an estimate.
    error: int = 0
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
_SCAN, _APP0, _APP8, _APP14 = 0xDA, 0xE0, 0xE8, 0xEE
_CODING_STYLE, _TILE = 0xFF52, 0xFF90
#: Samples of a JPEG 2000 codestream without the transform that its label names. Those of the reversible transform need
#: a ninth bit, and cannot be stored; those of the irreversible one are YCbCr.
_UNTRANSFORMED = {"YBR_RCT": "RGB", "YBR_ICT": "YBR_FULL"}
#: Transform byte of an Adobe marker: 0 is RGB, 1 is YCbCr.
_ADOBE_COLOURS = {0: "RGB", 1: "YBR"}


def colours_of(stream: Codestream, photometric: str) -> tuple[str, str]:
    """Return the photometric interpretation of decoded colour samples, and its contradiction to the label, if any.

    *photometric* is the label of the header. The transform of the codestream is undone by its decoder, and decides; a
    label that names a transform of the codestream says nothing about samples without one (PS3.5 8.2.4).
    """
    if stream.codec in (Codec.JPEG_2000, Codec.HTJ2K):
        if stream.colour:
            wrong = photometric.startswith("YBR_FULL")
            return "RGB", f"the samples have a component transform, which contradicts {photometric}" if wrong else ""
        if photometric in _UNTRANSFORMED:
            problem = f"the samples have no component transform, which contradicts {photometric}"
            return _UNTRANSFORMED[photometric], problem
    if stream.colour:
        return ("RGB" if stream.colour == "RGB" else "YBR_FULL"), ""
    return _UNTRANSFORMED.get(photometric, photometric), ""


def without_boxes(frame: bytes) -> bytes:
    """Return the codestream of a JPEG 2000 file, which some encoders store with its boxes (against PS3.5 A.4.4).

    A decoder would convert colours by the boxes, and the header's colour space would be applied again.
    """
    return frame[max(0, frame.find(_J2K_START)) :] if frame.startswith(_J2K_BOX) else frame


def inspect(frame: bytes) -> Codestream:
    """Return the size and kind of a compressed frame (ITU-T T.81 B.2, T.87 C.2, T.800 A.5).

    Raises Unreadable if *frame* is not a codestream or its end marker is missing.
    """
    if not frame.startswith((_J2K_START, _SOI)):
        raise Unreadable(Reason.UNDECODABLE, "the compression format is unknown")
    # Encoders pad to even length with 00 or FF.
    if frame.rfind(_EOI, max(0, len(frame.rstrip(b"\0\xff")) - _MAX_TRAILING)) < 0:
        raise Unreadable(Reason.TRUNCATED, "the end of the compressed image is missing")
    return _jpeg(frame) if frame.startswith(_SOI) else _jpeg_2000(frame)


def _jpeg(frame: bytes) -> Codestream:
    position, colour, jfif, found = 2, "", False, None
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
            error = _near(segment) if found.codec is Codec.JPEG_LS else found.error
            return replace(found, colour=colour or found.colour, jfif=jfif, error=error, data=position)
        if codec:
            rows, columns, samples = struct.unpack_from(">HHB", segment, 1)
            error = 1 << max(1, segment[0] - 5) if codec in (Codec.JPEG_8, Codec.JPEG_12) else 0
            found = Codestream(codec, rows, columns, samples, _colour_of_ids(segment), error=error)
            found = replace(found, progressive=marker in _PROGRESSIVE_FRAMES)
        colour = _colour(marker, segment) or colour
        jfif = jfif or (marker == _APP0 and segment.startswith(b"JFIF"))
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
    # Hewlett-Packard's extension of JPEG-LS: a transform other than 0 is undone by the decoder.
    return "RGB" if marker == _APP8 and segment[:4] == b"mrfx" and segment[4:5] not in (b"", b"\0") else ""


def _near(segment: bytes) -> int:
    """Return NEAR of a JPEG-LS scan, the largest error of a sample (T.87 C.2.3)."""
    at = 1 + 2 * segment[0] if segment else 0
    return segment[at] if at < len(segment) else 0


def _colour_of_ids(segment: bytes) -> str:
    """Return "RGB" if the component ids spell it: libjpeg writes them when it writes no marker."""
    return "RGB" if segment[6::3][:3].upper() == b"RGB" else ""


def _jpeg_2000(frame: bytes) -> Codestream:
    if len(frame) < 42:  # noqa: PLR2004 - up to the first component
        raise Unreadable(Reason.TRUNCATED, "the header of the compressed image is truncated")
    capabilities, right, bottom, left, top = struct.unpack_from(">HIIII", frame, 6)
    samples, depth = struct.unpack_from(">HB", frame, 40)
    # Bit 14 of the capabilities: ITU-T T.814, high throughput.
    codec = Codec.HTJ2K if capabilities & 0x4000 else Codec.JPEG_2000
    style = _coding_style(frame)
    transformed, irreversible = style[4:5] == b"\1", style[9:10] == b"\0"
    error = 1 << max(1, (depth & 0x7F) - 4) if irreversible else 0
    return Codestream(codec, bottom - top, right - left, samples, "RGB" if transformed else "", error=error)


def _coding_style(frame: bytes) -> bytes:
    """Return the COD segment of a JPEG 2000 main header, without its length (T.800 A.6.1); empty if it has none."""
    position = 2
    while position + 4 <= len(frame):
        marker, length = struct.unpack_from(">HH", frame, position)
        if marker == _CODING_STYLE:
            return frame[position + 4 : position + 2 + length]
        if marker == _TILE or length < 2:  # noqa: PLR2004 - the length counts itself
            return b""
        position += 2 + length
    return b""
