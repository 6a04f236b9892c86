"""The listener's element reader and the worker's header walker agree on every file of the test data."""

from __future__ import annotations

import csv
import struct
from typing import TYPE_CHECKING

from dicom_listener.dicom import data_sets
from dicom_listener.dicom.statuses import Refusal
from worker.images.decode.files import read
from worker.images.decode.header import WANTED

if TYPE_CHECKING:
    from pathlib import Path


def accepted(path: Path, syntax: str) -> dict[int, bytes] | None:
    """The values that the listener finds in the data set of a file; None if it refuses it."""
    content = path.read_bytes()
    if content[128:140] != b"DICM\2\0\0\0UL\4\0":
        return None
    reader = data_sets.reader(syntax, WANTED.keys())
    try:
        reader.feed(content[144 + struct.unpack_from("<L", content, 140)[0] :])
        reader.finish()
    except Refusal:
        return None
    return reader.values


def test_accepted_objects_are_read_with_the_same_values(test_data: Path) -> None:
    folder, compared = test_data / "dicom", 0
    with (folder / "MANIFEST.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        values = accepted(folder / row["file"], row["ts_uid"])
        if values is not None:
            compared += 1
            read_by_worker = read(folder / row["file"]).values
            assert {tag: read_by_worker[tag][2] for tag in values} == values, row["file"]
    assert compared > 100
