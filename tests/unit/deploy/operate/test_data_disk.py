"""Findings of `prelim doctor` about a disk near the marks of the listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from db.operations import disk
from db.settings import Settings
from deploy.operate.doctor import data_disk
from deploy.operate.doctor.finding import Installation, Level

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("used", "level"), [(79, Level.OK), (80, Level.WARNING), (95, Level.WARNING)])
def test_disk_near_a_mark_is_a_warning_with_which_the_system_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: float, level: Level
) -> None:
    monkeypatch.setattr(disk, "measure", lambda _: disk.Disk(1 << 40, None, used))
    found = data_disk.examine_space(Installation(Settings(data_dir=tmp_path)))
    assert found.level is level
    assert ("routine objects are refused" in found.found) == (used >= 90)
