"""The reserve of the disk, in bytes and inodes, and its alarms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from db.operations import alarms, disk
from db.operations.disk import RESERVED_BYTES, RESERVED_INODES, Disk
from db.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

PLENTY = 100 * RESERVED_BYTES


@pytest.mark.parametrize(
    ("found", "lacks", "code"),
    [
        (Disk(PLENTY, PLENTY), None, None),
        (Disk(PLENTY, None), None, None),
        (Disk(2 * RESERVED_BYTES - 1, PLENTY), None, "disk_low"),
        (Disk(RESERVED_BYTES - 1, PLENTY), "space", "disk_full"),
        (Disk(RESERVED_BYTES + 1, PLENTY), None, "disk_full"),
        (Disk(PLENTY, 2 * RESERVED_INODES - 1), None, "disk_low"),
        (Disk(PLENTY, RESERVED_INODES - 1), "inodes", "disk_full"),
        (Disk(0, 0), "space", "disk_full"),
    ],
)
def test_alarm_is_raised_before_objects_are_refused(found: Disk, lacks: str | None, code: str | None) -> None:
    alarm = found.alarm()
    assert found.lacks == lacks
    assert (alarm and alarm[0]) == code


def test_full_disk_is_known_without_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data_dir=tmp_path)
    assert alarms.local(settings) == []
    settings.spool.mkdir()
    monkeypatch.setattr(disk, "RESERVED_BYTES", 2**62)
    assert [alarm.code for alarm in alarms.local(settings)] == ["disk_full"]
