"""An object that the listener acknowledges is an image to the worker, or left out for a reason only pixels show."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from db.errors import NotReportable
from dicom_listener.receive.listener import Listener
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received
from tests.fuzz.wire import CT_IMAGE_STORAGE, Client
from tests.integration.dicom_listener.listening import settings_for
from worker.images.study import StoredInstance, images_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings

EXPLICIT, DEFLATED, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
ENCAPSULATED, DEFLATED_FRAMES = "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"
JPEG_XL = "1.2.840.10008.1.2.4.110"
UID = "1.2.3"
#: A ramp: every byte differs from its neighbours.
RAMP = bytes(range(256)) * 2


def short(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def pixels(value: bytes = RAMP, length: int | None = None, tag: int = 0x7FE00010) -> bytes:
    size = len(value) if length is None else length
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"OW", 0, size) + value


def fragments(*values: bytes) -> bytes:
    content = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(value)) + value for value in (b"", *values))
    return pixels(content + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0), 0xFFFFFFFF)


def ct(odd: bytes = b"", series: bytes = b"1.2.3.4\0", pixel_data: bytes | None = None, **changed: bytes) -> bytes:
    """A CT of 16 x 32 bytes; *odd* stands between patient and study."""
    us = {"rows": b"\x10\0", "columns": b"\x20\0", "allocated": b"\x08\0", **changed}
    return b"".join(
        (
            short(0x00080016, b"UI", CT_IMAGE_STORAGE.encode() + b"\0"),
            short(0x00080018, b"UI", UID.encode() + b"\0"),
            short(0x00080060, b"CS", b"CT"),
            short(0x00100020, b"LO", b"ID"),
            odd,
            short(0x0020000D, b"UI", b"1.2.3.5\0"),
            short(0x0020000E, b"UI", series) if series else b"",
            short(0x00280002, b"US", b"\1\0"),
            short(0x00280004, b"CS", b"MONOCHROME2 "),
            short(0x00280010, b"US", us["rows"]),
            short(0x00280011, b"US", us["columns"]),
            short(0x00280100, b"US", us["allocated"]),
            short(0x00280101, b"US", us["allocated"]),
            short(0x00280102, b"US", b"\7\0"),
            short(0x00280103, b"US", b"\0\0"),
            pixels() if pixel_data is None else pixel_data,
        )
    )


def odd(vr: bytes) -> bytes:
    return ct(short(0x001021B0, vr, b"G0000000"))


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


IMAGE = "image"
#: Object, transfer syntax, status of the listener, and the worker's reason for an acknowledged one.
OBJECTS: dict[str, tuple[bytes, str, int, str]] = {
    "plain": (ct(), EXPLICIT, 0, IMAGE),
    "VR --": (odd(b"--"), EXPLICIT, 0, IMAGE),
    "VR ??": (odd(b"??"), EXPLICIT, 0, IMAGE),
    "VR blank": (odd(b"  "), EXPLICIT, 0, IMAGE),
    "VR zeros": (odd(b"\0\0"), EXPLICIT, 0, IMAGE),
    "VR in lower case": (odd(b"lt"), EXPLICIT, 0, IMAGE),
    "UN with a 16-bit length": (odd(b"UN"), EXPLICIT, 0, IMAGE),
    "explicit under implicit": (ct(), "1.2.840.10008.1.2", 0, IMAGE),
    "odd VR behind the pixels": (ct() + short(0xFFFCFFFC, b"--", b"xx"), EXPLICIT, 0, IMAGE),
    "zeros behind the pixels": (ct() + bytes(40), EXPLICIT, 0, IMAGE),
    "no UID behind bytes without meaning": (ct(b"\x10\0\xb0\x21--\2\0\1\2\3\4\5"), EXPLICIT, 0xC006, ""),
    "odd series": (ct(series=b"SERIES_1"), EXPLICIT, 0, IMAGE),
    "no series": (ct(series=b""), EXPLICIT, 0xC001, ""),
    "cut off": (ct()[:-2], EXPLICIT, 0xC003, ""),
    "too few pixels": (ct(rows=b"\x11\0"), EXPLICIT, 0, "truncated"),
    "no pixels": (ct(pixel_data=b""), EXPLICIT, 0, "no_pixels"),
    "float pixels": (ct(pixel_data=pixels(tag=0x7FE00008), allocated=b"\x20\0"), EXPLICIT, 0, "unsupported_pixels"),
    "12 bits allocated": (ct(allocated=b"\x0c\0"), EXPLICIT, 0, "malformed"),
    "deflated": (deflated(ct()), DEFLATED, 0, IMAGE),
    "deflated, cut off": (deflated(ct())[:-4], DEFLATED, 0xC003, ""),
    "deflated, damaged": (b"\xff" * 200, DEFLATED, 0xC005, ""),
    "native in fragments": (ct(pixel_data=fragments(RAMP)), ENCAPSULATED, 0, IMAGE),
    "deflated frame": (ct(pixel_data=fragments(deflated(RAMP))), DEFLATED_FRAMES, 0, IMAGE),
    "short fragment": (ct(pixel_data=fragments(RAMP[:-2])), ENCAPSULATED, 0, "truncated"),
    "fragment cut off": (ct(pixel_data=fragments(RAMP))[:-20], ENCAPSULATED, 0xC003, ""),
    "native pixels under RLE": (ct(), RLE, 0, "malformed"),
    "fragments under native": (ct(pixel_data=fragments(RAMP)), EXPLICIT, 0, "malformed"),
    "no codestream": (ct(pixel_data=fragments(RAMP)), "1.2.840.10008.1.2.4.80", 0, "undecodable"),
    "private": (ct(), "1.3.46.670589.33.1.4.1", 0, "unknown_transfer_syntax"),
    "JPEG XL": (ct(pixel_data=fragments(b"\xff\x0a" * 20)), JPEG_XL, 0, "unsupported_transfer_syntax"),
    "video": (ct(pixel_data=fragments(RAMP)), "1.2.840.10008.1.2.4.102", 0, "video"),
}  # fmt: skip


@pytest.fixture(scope="module")
def receiving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Listener, Settings]]:
    settings = settings_for(tmp_path_factory.mktemp("spool"))
    with Listener(settings) as listener:
        yield listener, settings


def inbox(settings: Settings) -> set[Path]:
    return set(received(Spool(settings.spool)))


@pytest.mark.parametrize("name", OBJECTS)
def test_status_and_reason_agree(receiving: tuple[Listener, Any], name: str) -> None:
    listener, settings = receiving
    data_set, syntax, expected, reason = OBJECTS[name]
    before = inbox(settings)

    with Client(listener.port) as client:
        client.associate(((3, CT_IMAGE_STORAGE, (syntax,)),))
        status = client.store(UID, data_set)
        client.release()

    assert status == expected
    stored = inbox(settings) - before
    assert len(stored) == (status == 0)
    for path in stored:
        assert outcome(path) == reason


def outcome(path: Path) -> str:
    try:
        images_of([StoredInstance(path, UID)])
    except NotReportable as refused:
        return str(refused.reason)
    return IMAGE
