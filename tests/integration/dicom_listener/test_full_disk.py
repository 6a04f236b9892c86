"""A file system that fills up: objects are refused in time, the reserve stays, and reception resumes by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from db.operations import alarms, disk
from dicom_listener.receive.intake import marks
from dicom_listener.receive.listener import Listener
from dicom_listener.spool import inbox, writer
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received
from tests.fuzz.wire import Client, ct_slice
from tests.integration.dicom_listener.listening import settings_for, stored
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from db.settings import Settings

MIB = 2**20
PIXELS = 400_000
#: Reserved by the test: the listener refuses a file system that has fewer in all.
INODES = 25_000


class SmallDisk:
    """Figures of a file system of limited size, computed from the files in one folder."""

    def __init__(self, folder: Path, size: int, inodes: int) -> None:
        self._folder, self._size, self._inodes = folder, size, inodes
        self._statvfs = os.statvfs

    def statvfs(self, path: Path) -> os.statvfs_result:
        if not Path(path).is_relative_to(self._folder):
            return self._statvfs(path)
        sizes = [file.lstat().st_blocks * 512 for file in self._folder.rglob("*") if file.exists()]
        free, names = max(self._size - sum(sizes), 0) // 4096, self._inodes - len(sizes)
        return os.statvfs_result((4096, 4096, self._size // 4096, free, free, self._inodes, names, names, 0, 255))


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], Path]]:
    """Mount a file system with limits of MiB and inodes; without the privilege to mount, only report its figures."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(mib: int, inodes: int) -> Path:
        program, options = shutil.which("mount"), f"size={mib}m,nr_inodes={inodes}"
        command = [str(program), "-t", "tmpfs", "-o", options, "tmpfs", folder]
        if program is None or subprocess.run(command, check=False).returncode:
            monkeypatch.setattr(os, "statvfs", SmallDisk(folder, mib * MIB, inodes).statvfs)
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run([str(shutil.which("umount")), "--lazy", folder], check=True)


@pytest.mark.parametrize(
    ("mib", "inodes"), [pytest.param(24, 10 * INODES, id="bytes"), pytest.param(200, INODES + 400, id="inodes")]
)
def test_full_file_system_refuses_in_time_and_recovers(
    small_disk: Callable[[int, int], Path], mib: int, inodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "RESERVED_BYTES", 8 * MIB)
    monkeypatch.setattr(disk, "RESERVED_INODES", INODES)
    monkeypatch.setattr(writer, "FREE_SPACE_VALID_SECONDS", 0)
    monkeypatch.setattr(inbox, "PREPARED_FILES", 4)
    settings = settings_for(small_disk(mib, inodes))
    with Listener(settings) as listener, Client(listener.port) as client:
        client.associate()
        acknowledged = fill(client)
        assert acknowledged
        free = disk.measure(settings.spool)
        assert free.bytes > 8 * MIB - PIXELS - 100_000 - 4096 * 64, "the reserve is kept"
        assert free.inodes is None or free.inodes > INODES - 10
        assert [alarm.code for alarm in alarms.local(settings)] == ["disk_full"]
        assert {meta.sop_instance_uid for meta, _ in stored(settings)} == set(acknowledged)
        free_half(settings)
        wait_until(lambda: store(client) is not None)


def test_urgent_objects_arrive_on_a_file_system_that_is_91_percent_full(
    small_disk: Callable[[int, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "RESERVED_BYTES", MIB)
    monkeypatch.setattr(marks, "MEASURE_SECONDS", 0.02)
    folder = small_disk(64, 10 * INODES)
    settings = settings_for(folder)
    filler = folder / "filler"
    filler.write_bytes(bytes(int(0.9 * 64 * MIB)))
    with Listener(settings) as listener, Client(listener.port) as client:
        client.associate()
        acknowledged = []
        while disk.measure(settings.spool).used_percent < 91:
            uid = store(client, priority=1)
            assert uid is not None
            acknowledged.append(uid)
        assert store(client) is None
        assert len(acknowledged) > 1
        filler.unlink()
        wait_until(lambda: store(client) is not None)
        assert set(acknowledged) <= {meta.sop_instance_uid for meta, _ in stored(settings)}


def fill(client: Client) -> list[str]:
    """Store objects until one is refused for lack of space; return those that were acknowledged."""
    acknowledged = []
    while (uid := store(client)) is not None:
        acknowledged.append(uid)
        assert len(acknowledged) < 500
    return acknowledged


def store(client: Client, priority: int = 0) -> str | None:
    uid = f"2.25.{uuid.uuid4().int}"
    status = client.store(uid, ct_slice(uid, pixels=PIXELS), priority=priority)
    assert status in {0, 0xA700}
    return uid if status == 0 else None


def free_half(settings: Settings) -> None:
    """Remove half of the files, as an operator does after moving them elsewhere."""
    files = sorted(received(Spool(settings.spool)))
    for file in files[: len(files) // 2]:
        file.unlink()
