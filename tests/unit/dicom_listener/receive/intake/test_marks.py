"""Marks of disk and backlog: each level, and its end clearly below the mark."""

from __future__ import annotations

import pytest

from db.operations.disk import RESERVED_BYTES, RESERVED_INODES, Disk
from db.operations.listener_status import Level
from db.settings import Settings
from dicom_listener.receive.intake.marks import level_of

LIMITS = Settings(urgent_only_backlog=1000).dicom


def level(before: Level = Level.OPEN, *, used: float = 0, waiting: int = 0, free: int = 100 * RESERVED_BYTES) -> Level:
    return level_of(Disk(free, None, used), waiting, LIMITS, before)[0]


@pytest.mark.parametrize(
    ("used", "waiting", "expected"),
    [
        (79.9, 0, Level.OPEN),
        (80, 0, Level.NEAR),
        (89.9, 0, Level.NEAR),
        (90, 0, Level.ONLY_URGENT),
        (91, 0, Level.ONLY_URGENT),
        (0, 799, Level.OPEN),
        (0, 800, Level.NEAR),
        (0, 1000, Level.ONLY_URGENT),
        (85, 1000, Level.ONLY_URGENT),
    ],
)
def test_level_follows_disk_and_backlog(used: float, waiting: int, expected: Level) -> None:
    assert level(used=used, waiting=waiting) is expected


def test_reserve_of_the_disk_closes_the_intake() -> None:
    assert level(free=RESERVED_BYTES - 1, used=60) is Level.CLOSED
    assert level_of(Disk(100 * RESERVED_BYTES, RESERVED_INODES - 1, 0), 0, LIMITS, Level.OPEN)[0] is Level.CLOSED


def test_level_ends_only_clearly_below_its_mark() -> None:
    assert level(Level.ONLY_URGENT, used=89) is Level.ONLY_URGENT
    assert level(Level.CLOSED, used=89) is Level.ONLY_URGENT
    assert level(Level.ONLY_URGENT, used=87.9) is Level.NEAR
    assert level(Level.NEAR, used=79) is Level.NEAR
    assert level(Level.NEAR, used=77.9) is Level.OPEN
    assert level(Level.ONLY_URGENT, waiting=901) is Level.ONLY_URGENT
    assert level(Level.ONLY_URGENT, waiting=899) is Level.NEAR


def test_cause_names_the_value() -> None:
    assert level_of(Disk(100 * RESERVED_BYTES, None, 91.2), 0, LIMITS, Level.OPEN)[1].startswith("91 % of the disk")
    assert level_of(Disk(100 * RESERVED_BYTES, None, 0), 1234, LIMITS, Level.OPEN)[1].startswith("1234 received files")
