"""Memory and time that one file costs a worker, measured in a child process."""

from __future__ import annotations

import csv
import json
import struct
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless

from db.limits import MAX_INFLATED_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MIB = 1 << 20

CHILD = """
import json, re, sys, time
from pathlib import Path
from db.errors import NotReportable
from worker.images.study import StoredInstance, images_of
for name in sys.argv[1:]:
    start = time.perf_counter()
    try:
        outcome = f"{len(images_of([StoredInstance(Path(name), '1.2.3')]).images)} images"
    except NotReportable as refusal:
        outcome = refusal.reason
    seconds = time.perf_counter() - start
    # Not ru_maxrss, which starts with the size of the parent process.
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    print(json.dumps({"name": name, "outcome": outcome, "seconds": seconds, "peak": peak}))
"""


def cost(names: Sequence[Path]) -> list[dict[str, float | str]]:
    """Return outcome, seconds and peak resident memory so far in bytes, for each file in turn."""
    command = [sys.executable, "-c", CHILD, *map(str, names)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=150, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_no_test_file_takes_the_worker_over_one_gibibyte(test_data: Path) -> None:
    folder = test_data / "dicom"
    with (folder / "MANIFEST.csv").open(newline="") as file:
        names = [folder / row["file"] for row in csv.DictReader(file)]

    costs = cost(names)

    assert len(costs) == len(names)
    assert float(costs[-1]["peak"]) < 1024 * MIB


def dicom(path: Path, body: bytes, syntax: str) -> Path:
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\2\0\x10\0UI" + struct.pack("<H", len(uid)) + uid + body)
    return path


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    return (
        head
        + (struct.pack("<HL", 0, len(value)) if vr in (b"OB", b"OW", b"SQ") else struct.pack("<H", len(value)))
        + value
    )


def claims(rows: int, columns: int, bits: int = 16) -> bytes:
    numbers = {0x00280010: rows, 0x00280011: columns, 0x00280100: bits, 0x00280101: bits, 0x00280103: 0}
    head = element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.2\0") + element(0x00280002, b"US", struct.pack("<H", 1))
    head += element(0x00280004, b"CS", b"MONOCHROME2 ")
    return head + b"".join(element(tag, b"US", struct.pack("<H", number)) for tag, number in numbers.items())


def deflate_bomb(path: Path) -> Path:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(claims(60000, 60000))
    body += b"".join(packer.compress(bytes(4 * MIB)) for _ in range(MAX_INFLATED_BYTES // (4 * MIB))) + packer.flush()
    return dicom(path, body, "1.2.840.10008.1.2.1.99")


def run_length_bomb(path: Path) -> Path:
    """A megapixel whose only segment would expand to 200 MB, twice over."""
    runs = b"\x81\x07" * (1 * MIB)
    frame = struct.pack("<16L", 2, 64, 64 + len(runs), *[0] * 13) + runs + runs
    return dicom(
        path, claims(1500, 1500) + element(0x7FE00010, b"OB", b"")[:8] + b"\xff" * 4 + encapsulate([frame]), RLELossless
    )


def codestream_bomb(path: Path) -> Path:
    """A JPEG 2000 header of 9000 x 9000, as its object declares, without data."""
    size = struct.pack(">HHIIIIIIIIH", 41, 0, 9000, 9000, 0, 0, 9000, 9000, 0, 0, 1) + b"\x0f\1\1"
    frame = b"\xff\x4f\xff\x51" + size + b"\xff\xd9"
    body = claims(9000, 9000) + element(0x7FE00010, b"OB", b"")[:8] + b"\xff" * 4 + encapsulate([frame])
    return dicom(path, body, JPEG2000Lossless)


def tiny_elements(path: Path) -> Path:
    """Twenty megabytes of empty elements, half of them in one sequence of undefined length."""
    empty = element(0x00091001, b"UI", b"")
    sequence = struct.pack("<HH2sHL", 0x0009, 0x1000, b"SQ", 0, 0xFFFFFFFF) + b"\xfe\xff\x00\xe0" + b"\xff" * 4
    return dicom(path, sequence + empty * (20 * MIB // 8), "1.2.840.10008.1.2.1")


def functional_groups(path: Path) -> Path:
    """Per-frame functional groups of a million empty items."""
    items = element(0x52009230, b"SQ", b"\xfe\xff\x00\xe0\0\0\0\0" * (1 * MIB))
    return dicom(path, claims(64, 64) + items + element(0x7FE00010, b"OW", bytes(8192)), "1.2.840.10008.1.2.1")


def fragments(path: Path) -> Path:
    """Five million empty fragments."""
    body = claims(64, 64) + element(0x00280008, b"IS", b"2 ") + element(0x7FE00010, b"OB", b"")[:8] + b"\xff" * 4
    return dicom(path, body + b"\xfe\xff\x00\xe0\0\0\0\0" * (5 * MIB), JPEG2000Lossless)


HOSTILE = [deflate_bomb, run_length_bomb, codestream_bomb, tiny_elements, functional_groups, fragments]


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_hostile_file_costs_less_than_300_mebibytes_and_half_a_minute(make: object, tmp_path: Path) -> None:
    assert callable(make)
    (measured,) = cost([make(tmp_path / "hostile.dcm")])

    assert float(measured["peak"]) < 300 * MIB, measured
    assert float(measured["seconds"]) < 30, measured


def test_damaged_test_files_cost_less_than_300_mebibytes(test_data: Path) -> None:
    damaged = sorted((test_data / "dicom" / "synth").glob("bad_*.dcm"))

    costs = cost(damaged)

    assert len(costs) >= 10
    assert float(costs[-1]["peak"]) < 300 * MIB
    assert np.max([float(measured["seconds"]) for measured in costs]) < 5
