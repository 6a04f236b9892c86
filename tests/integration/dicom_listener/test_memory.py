"""Memory of the listener depends on the associations, not on the size of objects or studies."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received
from tests.fuzz.listener import listening
from tests.fuzz.wire import COMMAND, LAST, P_DATA_TF, Client, c_store_rq, ct_slice, pdu, pdv, status

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

MAX_RESIDENT_BYTES = 200 * 2**20
FRAGMENT = 128 * 1024 - 6
#: Fragments of a multi-frame object of 2 GiB and a little.
FRAGMENTS = 2**31 // FRAGMENT + 2
INSTANCES = 5000


def peak_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def large_object(uid: str) -> Iterator[bytes]:
    """The PDUs of an object whose Pixel Data fill all fragments but the first."""
    head = ct_slice(uid, pixels=0)[:-4] + struct.pack("<I", (FRAGMENTS - 1) * FRAGMENT)
    yield pdu(P_DATA_TF, pdv(3, COMMAND | LAST, c_store_rq(uid)) + pdv(3, 0, head))
    frames = pdu(P_DATA_TF, pdv(3, 0, bytes(FRAGMENT)))
    for _ in range(FRAGMENTS - 2):
        yield frames
    yield pdu(P_DATA_TF, pdv(3, LAST, bytes(FRAGMENT)))


def test_huge_object_and_huge_study_fit_into_200_mib(tmp_path: Path) -> None:
    with listening(tmp_path) as subject, Client(subject.port, seconds=120) as client:
        client.associate()
        for content in large_object("1.2.3"):
            client.send(content)
        assert status(client.read()) == 0
        for number in range(INSTANCES):
            uid = f"1.2.{number}.1"
            assert client.store(uid, ct_slice(uid, pixels=20_000), step=FRAGMENT) == 0
        client.release()
        sizes = [path.stat().st_size for path in received(Spool(subject.spool))]
        assert (len(sizes), max(sizes) > 2**31) == (INSTANCES + 1, True)
        assert peak_bytes(subject.pid) < MAX_RESIDENT_BYTES
