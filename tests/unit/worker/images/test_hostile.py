from __future__ import annotations

import struct
import tracemalloc
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import structlog
from pydicom import dcmread
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLSLossless,
    ParametricMapStorage,
    RLELossless,
    VLWholeSlideMicroscopyImageStorage,
)

from db.errors import NotReportable, TransientFailure
from db.limits import MAX_INFLATED_BYTES
from worker.images import stacks, study
from worker.images.decode import compressed
from worker.images.decode.codestream import inspect
from worker.images.decode.files import read
from worker.images.errors import Unreadable
from worker.images.render.render import render
from worker.images.study import StoredInstance, images_of

if TYPE_CHECKING:
    from pathlib import Path

META = b"\0" * 128 + b"DICM" + b"\2\0\x10\0UI"


def file_of(path: Path, body: bytes, syntax: bytes = b"1.2.840.10008.1.2.1\0") -> StoredInstance:
    path.write_bytes(META + struct.pack("<H", len(syntax)) + syntax + body)
    return StoredInstance(path, "1.2.3")


def refused(stored: StoredInstance) -> str:
    with pytest.raises(NotReportable) as caught:
        images_of([stored])
    return caught.value.reason


def test_declared_gigabytes_are_rejected_before_allocation(store: Any) -> None:
    assert refused(store(np.zeros((64, 64), np.uint16), Rows=65535, Columns=65535)) == "too_large"
    assert refused(store(np.zeros((64, 64), np.uint16), NumberOfFrames=2_000_000_000)) == "too_large"


def test_more_frames_than_the_compressed_pixels_can_hold_are_rejected(store: Any) -> None:
    stored = store(np.arange(4096, dtype=np.uint16).reshape(64, 64), syntax=JPEGLSLossless)
    dataset = dcmread(stored.path)
    dataset.NumberOfFrames = 200_000
    dataset.save_as(stored.path)

    assert refused(stored) == "truncated"


def test_frames_without_positions_are_sampled_as_a_run(store: Any) -> None:
    frames = np.arange(200_000, dtype=np.uint32).astype(np.uint8).reshape(200_000, 1, 1)
    tracemalloc.start()

    basis = images_of([store(frames)]).basis
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert basis.endswith("of 200000 frames")
    assert peak < 20 << 20


def test_slide_with_more_tiles_than_positions_is_rejected(store: Any) -> None:
    tiles = np.random.default_rng(1).integers(0, 255, (30, 64, 64, 3), np.uint8)

    assert refused(slide(store, tiles, rows=100, columns=100)) == "malformed"


def test_slide_of_four_billion_pixels_a_side_costs_only_its_tiles(store: Any) -> None:
    tiles = np.random.default_rng(1).integers(0, 255, (4, 64, 64, 3), np.uint8)
    stored = slide(store, tiles, rows=4_000_000_000, columns=4_000_000_000)
    tracemalloc.start()

    assert len(images_of([stored]).images) == 4

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 << 20


def test_slide_of_thousands_of_tiny_tiles_is_rejected(store: Any) -> None:
    tiles = np.zeros((20_000, 1, 1, 3), np.uint8)

    assert refused(slide(store, tiles, rows=100, columns=200)) == "too_large"


def test_deflated_slide_is_not_inflated_for_every_tile(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = np.random.default_rng(1).integers(0, 255, (1, 64, 64, 3), np.uint8).repeat(256, axis=0)
    stored = slide(store, tiles, rows=1024, columns=1024)
    content = stored.path.read_bytes()
    at = 144 + struct.unpack_from("<L", content, 140)[0]
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = file_of(stored.path, packer.compress(content[at:]) + packer.flush(), b"1.2.840.10008.1.2.1.99")
    inflate, inflations = zlib.decompressobj, []

    def counted(wbits: int) -> Any:
        inflations.append(wbits)
        return inflate(wbits)

    monkeypatch.setattr(zlib, "decompressobj", counted)

    assert images_of([deflated]).images[0].transform["assembled"] == 256
    # Measured and inflated, for the header and for the pixels.
    assert len(inflations) == 4


def element(tag: int, value: bytes) -> bytes:
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"OB", 0, len(value)) + value


def slide(store: Any, tiles: Any, rows: int, columns: int) -> StoredInstance:
    stored: StoredInstance = store(
        tiles,
        SOPClassUID=VLWholeSlideMicroscopyImageStorage,
        Modality="SM",
        TotalPixelMatrixRows=rows,
        TotalPixelMatrixColumns=columns,
        DimensionOrganizationType="TILED_FULL",
    )
    return stored


def test_rle_data_too_short_for_its_image_is_rejected(store: Any) -> None:
    stored = store(np.zeros((512, 512), np.uint16), syntax=RLELossless)
    content = stored.path.read_bytes()
    claimed = content.replace(b"\x28\0\x10\0US\2\0\0\2", b"\x28\0\x10\0US\2\0\0\4")
    stored.path.write_bytes(claimed)

    assert claimed != content
    assert refused(stored) == "truncated"


def test_unforeseen_error_leaves_out_only_its_object(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = (
        store(np.random.default_rng(seed).integers(0, 4096, (64, 64), np.uint16), Modality="XC") for seed in (1, 2)
    )
    decode = render

    def breaking(header: Any, *arguments: Any, **options: Any) -> Any:
        if header.path == bad.path:
            raise ZeroDivisionError("DOE^JANE")
        return decode(header, *arguments, **options)

    monkeypatch.setattr(stacks, "render", breaking)
    structlog.configure(cache_logger_on_first_use=False)
    with structlog.testing.capture_logs() as logs:
        shown = images_of([good, bad])

    assert [(left.sop_instance_uid, left.reason) for left in shown.left_out] == [(bad.sop_instance_uid, "undecodable")]
    assert [(line["event"], line["error"]) for line in logs] == [("object.failed", "ZeroDivisionError")]
    assert "DOE" not in str(logs)


def test_missing_file_is_left_out_and_a_study_without_files_is_retried(store: Any) -> None:
    good, gone = (store(np.random.default_rng(seed).integers(0, 99, (64, 64), np.uint8)) for seed in (1, 2))
    gone.path.unlink()

    assert [left.reason for left in images_of([good, gone]).left_out] == ["missing"]
    with pytest.raises(TransientFailure, match="missing_files"):
        images_of([gone])


def test_typed_text_is_not_quoted_in_reasons(store: Any) -> None:
    pixels = np.random.default_rng(1).integers(0, 4096, (64, 64), np.uint16)
    stored = [
        store(pixels, Modality="CT", SeriesNumber=3),
        store(pixels[::-1].copy(), Modality="DX", ViewPosition="AP", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1"),
    ]
    spoil(stored[0], b"\x20\0\x11\0IS", b"3\x1b[31mDOE^JANE\0\0 ")
    spoil(stored[1], b"\x18\0\x01\x51CS", b"<b>DOE^JANE\0x")

    shown = images_of(stored)

    assert shown.basis == "CT: 1 of 1 slices of series without number; DX: 1 of 1 views"
    assert [image.reason for image in shown.images] == ["slice 1 of 1 of series without number", "view 1 of 1"]


def spoil(stored: StoredInstance, head: bytes, value: bytes) -> None:
    content = stored.path.read_bytes()
    at = content.index(head) + len(head)
    length = int.from_bytes(content[at : at + 2], "little")
    stored.path.write_bytes(content[:at] + len(value).to_bytes(2, "little") + value + content[at + 2 + length :])


def test_fewer_pixels_than_declared_are_rejected(store: Any) -> None:
    assert refused(store(np.zeros((64, 64), np.uint16), Rows=65)) == "truncated"
    assert refused(store(np.zeros((64, 64), np.uint16), PixelData=b"")) == "no_pixels"


def test_file_truncated_within_its_pixels_is_rejected(store: Any) -> None:
    stored = store(np.zeros((64, 64), np.uint16))
    stored.path.write_bytes(stored.path.read_bytes()[:-2])

    assert refused(stored) == "truncated"


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("lost", [20, 400])
def test_truncated_compressed_file_is_rejected(store: Any, syntax: str, lost: int) -> None:
    stored = store(np.random.default_rng(3).integers(0, 4096, (64, 64), np.uint16), syntax=syntax)
    stored.path.write_bytes(stored.path.read_bytes()[:-lost])

    assert refused(stored) == "truncated"


def test_codestream_of_another_size_than_its_header_is_rejected(store: Any) -> None:
    stored = store(np.zeros((64, 64), np.uint16), syntax=JPEGLSLossless)
    content = stored.path.read_bytes()
    stored.path.write_bytes(content.replace(b"\x28\0\x10\0US\2\0\x40\0", b"\x28\0\x10\0US\2\0\xff\1"))

    assert refused(stored) == "malformed"


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"PhotometricInterpretation": "HSV"}, "unknown_photometric"),
        ({"PhotometricInterpretation": "RGB"}, "malformed"),
        ({"BitsAllocated": 12}, "malformed"),
        ({"BitsStored": 17}, "malformed"),
        ({"Rows": 0}, "malformed"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "not_an_image"),
    ],
)
def test_unsupported_image_has_its_own_reason(store: Any, elements: dict[str, Any], reason: str) -> None:
    assert refused(store(np.zeros((64, 64), np.uint16), **elements)) == reason


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", np.float32), ("DoubleFloatPixelData", np.float64)])
def test_floating_point_pixels_are_not_supported(store: Any, keyword: str, dtype: type) -> None:
    stored = store(np.zeros((64, 64), np.uint16), **{keyword: np.ones((64, 64), dtype).tobytes()})
    dataset = dcmread(stored.path)
    del dataset.PixelData
    for sop_class in (dataset.SOPClassUID, ParametricMapStorage):
        dataset.SOPClassUID = sop_class
        dataset.save_as(stored.path)

        assert refused(stored) == "unsupported_pixels"


@pytest.mark.parametrize(
    "syntax",
    [b"1.2.840.10008.1.2.4.102", b"1.2.840.10008.1.2.4.106", b"1.2.840.10008.1.2.7.1\0", b"1.2.840.10008.1.2.4.100\0"],
)
def test_video_is_rejected_as_video(store: Any, syntax: bytes) -> None:
    stored = store(np.zeros((64, 64), np.uint16))
    content = stored.path.read_bytes()
    length = struct.unpack_from("<L", content, 140)[0]

    assert refused(file_of(stored.path, content[144 + length :], syntax)) == "video"


@pytest.mark.parametrize("syntax", [b"1.2.840.10008.1.2.4.95", b"1.2.840.10008.1.2.4.205\0"])
def test_deflated_object_with_referenced_pixels_contains_no_pixels(store: Any, syntax: bytes) -> None:
    stored = store(np.zeros((64, 64), np.uint16))
    content = stored.path.read_bytes()
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = packer.compress(content[144 + struct.unpack_from("<L", content, 140)[0] :]) + packer.flush()

    assert refused(file_of(stored.path, body, syntax)) == "no_pixels"


def test_deflate_bomb_is_rejected_at_the_limit(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    pieces = [packer.compress(bytes(1 << 20)) for _ in range((MAX_INFLATED_BYTES >> 20) + 1)]
    bomb = b"".join(pieces) + packer.flush()

    assert refused(file_of(tmp_path / "bomb", bomb, b"1.2.840.10008.1.2.1.99")) == "too_large"


def test_deep_nesting_is_rejected_without_recursion(tmp_path: Path) -> None:
    nested = (b"\x08\0\x40\x11SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4) * 5000

    assert refused(file_of(tmp_path / "deep", nested)) == "malformed"


def test_element_beyond_the_end_of_the_file_is_rejected(tmp_path: Path) -> None:
    assert refused(file_of(tmp_path / "long", b"\x09\0\x10\0UN\0\0" + b"\xf0\xff\xff\x7f")) == "truncated"


def test_every_prefix_of_a_file_is_rejected_with_a_reason(store: Any) -> None:
    stored = store(np.arange(4096, dtype=np.uint16).reshape(64, 64), WindowCenter=5, WindowWidth=7)
    content = stored.path.read_bytes()

    for length in range(0, len(content) - 1, 7):
        stored.path.write_bytes(content[:length])
        assert refused(stored)


def test_flipped_bytes_give_images_or_reasons(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # A second decoder runs in a process of its own and cannot end this one: test_second_decoder.py.
    monkeypatch.setattr(compressed, "_OTHER_DECODERS", {})
    rng = np.random.default_rng(11)
    for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless, "1.2.840.10008.1.2.1"):
        stored = store(rng.integers(0, 4096, (32, 32), np.uint16), syntax=syntax)
        content = np.frombuffer(stored.path.read_bytes(), np.uint8)
        for _ in range(60):
            flipped = content.copy()
            flipped[rng.integers(132, len(content), 4)] = rng.integers(0, 256, 4)
            stored.path.write_bytes(flipped.tobytes())
            with suppress(NotReportable):
                assert images_of([stored]).images


@pytest.mark.parametrize(
    "frame", [b"", b"\xff\xd9", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xc0\0\2\xff\xd9", b"\xff\x4f\xff\x51\xff\xd9"]
)
def test_invalid_codestream_with_an_end_marker_is_rejected(frame: bytes) -> None:
    with pytest.raises(Unreadable):
        inspect(frame)


def test_reason_contains_no_patient_data(store: Any) -> None:
    stored = store(np.zeros((64, 64), np.uint16), Rows=65, PatientName="Doe^Jane", PatientID="4711")

    with pytest.raises(NotReportable) as caught:
        images_of([stored])

    assert "Doe" not in str(caught.value)
    assert "4711" not in str(caught.value)


def test_excessively_long_value_is_not_kept(store: Any) -> None:
    stored = store(np.arange(4096, dtype=np.uint16).reshape(64, 64))
    content = stored.path.read_bytes()
    at = 144 + struct.unpack_from("<L", content, 140)[0]
    numbers = b"1\\0\\" * 500_000
    header = read(file_of(stored.path, element(0x00200037, numbers) + content[at:], b"1.2.840.10008.1.2.1\0").path)

    assert "ImageOrientationPatient" not in header
    assert header.bytes_kept < 10_000


def test_headers_beyond_the_memory_limit_leave_objects_out(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "_MAX_HEADER_BYTES", 2000)
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    stored = [store(ramp + n, ICCProfile=bytes(1500)) for n in range(3)]

    assert [left.reason for left in images_of(stored).left_out] == ["too_large", "too_large"]
