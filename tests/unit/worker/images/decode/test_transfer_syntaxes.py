"""Transfer syntaxes other than the usual ones: decoded, or refused under their name."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian

from db.errors import NotReportable
from worker.images.decode.files import read
from worker.images.decode.frames import decode
from worker.images.study import StoredInstance, images_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

ENCAPSULATED, DEFLATED_FRAMES = "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"
GE_BIG_ENDIAN = "1.2.840.113619.5.2"


def renamed(path: Path, syntax: str) -> StoredInstance:
    """Replace the File Meta Information by one that has only *syntax*."""
    content = path.read_bytes()
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    meta = bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value
    path.write_bytes(meta + content[144 + struct.unpack_from("<L", content, 140)[0] :])
    return StoredInstance(path, "1.2.3")


def in_fragments(stored: StoredInstance, fragments: list[bytes], syntax: str) -> StoredInstance:
    dataset = dcmread(stored.path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.5"
    dataset.PixelData = encapsulate(fragments)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.save_as(stored.path)
    return renamed(stored.path, syntax)


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def refused(stored: StoredInstance) -> tuple[str, str]:
    with pytest.raises(NotReportable) as caught:
        images_of([stored])
    return caught.value.reason, caught.value.detail


def frames_of(stored: StoredInstance) -> list[npt.NDArray[Any]]:
    header = read(stored.path)
    return [decode(header, index).samples for index in range(header.frames)]


@pytest.mark.parametrize("syntax", [ENCAPSULATED, DEFLATED_FRAMES])
@pytest.mark.parametrize("shape", [(3, 33, 17), (2, 15, 9, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_frames_of_native_samples_in_fragments_are_decoded(
    store: Any, syntax: str, shape: tuple[int, ...], dtype: type
) -> None:
    frames = np.random.default_rng(1).integers(0, 250, shape).astype(dtype)
    pack = deflated if syntax == DEFLATED_FRAMES else bytes
    stored = in_fragments(store(frames), [pack(frame.tobytes()) for frame in frames], syntax)

    assert np.array_equal(frames_of(stored), frames)


def test_planar_samples_in_fragments_are_decoded(store: Any) -> None:
    frame = np.random.default_rng(1).integers(0, 250, (16, 10, 3), np.uint8)
    stored = store(frame, PlanarConfiguration=1)
    planes = np.moveaxis(frame, -1, 0).tobytes()

    assert np.array_equal(frames_of(in_fragments(stored, [planes], ENCAPSULATED)), [frame])


def test_bits_in_fragments_are_decoded(store: Any) -> None:
    bits = np.random.default_rng(1).integers(0, 2, (3, 5, 7), np.uint8)
    stored = store(np.zeros((3, 5, 7), np.uint8), BitsAllocated=1, BitsStored=1, HighBit=0)
    packed = [np.packbits(frame.ravel(), bitorder="little").tobytes() for frame in bits]

    assert np.array_equal(frames_of(in_fragments(stored, packed, ENCAPSULATED)), bits)


def test_short_fragment_is_truncated_and_damaged_deflate_is_undecodable(store: Any) -> None:
    frame = np.random.default_rng(1).integers(0, 4096, (32, 32), np.uint16)
    cases = [
        (frame.tobytes()[:-2], ENCAPSULATED, "truncated"),
        (deflated(frame.tobytes())[:-30], DEFLATED_FRAMES, "truncated"),
        (b"\xff" * 600, DEFLATED_FRAMES, "undecodable"),
    ]
    for fragment, syntax, reason in cases:
        assert refused(in_fragments(store(frame), [fragment], syntax))[0] == reason


def test_deflated_frame_that_expands_too_far_stops_at_its_size(store: Any) -> None:
    bomb = deflated(bytes(64 << 20))
    stored = in_fragments(store(np.zeros((64, 64), np.uint16)), [bomb], DEFLATED_FRAMES)

    assert frames_of(stored)[0].shape == (64, 64)


def test_big_endian_pixels_of_ge_are_decoded(store: Any) -> None:
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    stored = store(pixels)
    dataset = dcmread(stored.path)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.PixelData = pixels.astype(">u2").tobytes()
    dataset.save_as(stored.path, implicit_vr=True, little_endian=True)

    assert np.array_equal(frames_of(renamed(stored.path, GE_BIG_ENDIAN)), [pixels])


@pytest.mark.parametrize(
    ("syntax", "reason", "name"),
    [
        ("1.2.826.0.1.3680043.8.498.77.1", "unknown_transfer_syntax", "1.2.826.0.1.3680043.8.498.77.1"),
        ("1.3.46.670589.33.1.4.1", "unknown_transfer_syntax", "private, of Philips"),
        ("1.3.12.2.1107.5.9", "unknown_transfer_syntax", "private, of Siemens"),
        ("1.2.840.113619.5.9", "unknown_transfer_syntax", "private, of GE"),
        ("1.2.840.10008.1.2.4.110", "unsupported_transfer_syntax", "JPEG XL Lossless"),
        ("1.2.840.10008.1.2.4.112", "unsupported_transfer_syntax", "JPEG XL"),
        ("1.2.840.10008.1.2.99.7", "unsupported_transfer_syntax", "1.2.840.10008.1.2.99.7"),
        ("1.2.840.10008.1.2.4.94", "no_pixels", "stored outside"),
        ("1.2.840.10008.1.2.4.107", "video", "video"),
        ("<b>", "unknown_transfer_syntax", "malformed UID"),
    ],
)
def test_syntax_that_is_not_decoded_is_named(store: Any, syntax: str, reason: str, name: str) -> None:
    stored = renamed(store(np.zeros((64, 64), np.uint16)).path, syntax)

    found, detail = refused(stored)

    assert found == reason
    assert name in detail
    assert "<" not in detail


def test_unknown_syntax_counts_before_its_pixels(store: Any) -> None:
    # The bytes after Pixel Data of an unknown encoding cannot be judged.
    stored = store(np.zeros((64, 64), np.uint16), NumberOfFrames=50)

    assert refused(renamed(stored.path, "1.2.3.4"))[0] == "unknown_transfer_syntax"
