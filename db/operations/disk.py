"""Free space of the disk of the data directory: a reserve that received objects never use, and its alarms."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: Bytes that stay free: database and logs often share the disk, and must be able to report that it is full.
RESERVED_BYTES = 512 * 2**20
#: Inodes that stay free, for the same reason: a file system of small objects can have bytes and no more file names.
RESERVED_INODES = 2000
#: Objects are refused at the reserve; the alarm is raised at this multiple of it, while there is time to act.
LOW_FACTOR = 2
#: Below this multiple the disk counts as full: an object that does not fit is removed again, which frees its part.
FULL_FACTOR = 1.125


@dataclass(frozen=True, slots=True)
class Disk:
    """Free space of one file system for an ordinary user; *inodes* is None if the file system has no fixed number."""

    bytes: int
    inodes: int | None
    #: Share of the space, or of the inodes if that is larger, that is used, as `df` shows it.
    used_percent: float = 0.0

    @property
    def lacks(self) -> str | None:
        """Return what the reserve lacks, `space` or `inodes`; None if more than the reserve is free."""
        return self._below(1)

    def alarm(self) -> tuple[str, str] | None:
        """Return code and detail of the alarm; None if much more than the reserve is free."""
        if self._below(FULL_FACTOR) is not None:
            return "disk_full", f"the disk has {self._free()}, no more than the reserve: objects are refused; {REMEDY}"
        if self._below(LOW_FACTOR) is not None:
            return "disk_low", f"the disk has {self._free()}, little more than the reserve; {REMEDY}"
        return None

    def _below(self, factor: float) -> str | None:
        if self.bytes < factor * RESERVED_BYTES:
            return "space"
        return "inodes" if self.inodes is not None and self.inodes < factor * RESERVED_INODES else None

    def _free(self) -> str:
        inodes = "" if self.inodes is None else f" and {self.inodes} inodes"
        return f"{self.bytes >> 20} MiB{inodes} free"


REMEDY = (
    f"free space until more than {LOW_FACTOR * RESERVED_BYTES >> 20} MiB and {LOW_FACTOR * RESERVED_INODES} inodes are"
    " free, or move PRELIM_DATA_DIR to a larger disk"
)


def measure(directory: Path) -> Disk:
    """Measure the disk of *directory*; raises OSError."""
    found = os.statvfs(directory)
    used = _percent(found.f_blocks - found.f_bfree, found.f_bavail)
    # Some file systems (btrfs) make inodes as they are needed and report 0.
    if not found.f_files:
        return Disk(found.f_bavail * found.f_frsize, None, used)
    used_inodes = _percent(found.f_files - found.f_ffree, found.f_favail)
    return Disk(found.f_bavail * found.f_frsize, found.f_favail, max(used, used_inodes))


def room(directory: Path, percent: float) -> int:
    """Return the bytes that fit on the disk of *directory* until *percent* of it or the reserve is reached, if any."""
    found = os.statvfs(directory)
    usable = (found.f_blocks - found.f_bfree + found.f_bavail) * found.f_frsize
    kept = max(usable * (1 - percent / 100), RESERVED_BYTES)
    return max(int(found.f_bavail * found.f_frsize - kept), 0)


def _percent(used: int, free: int) -> float:
    """Return the used share of what an ordinary user can use."""
    return 100 * used / max(used + free, 1)


def measure_existing(directory: Path) -> Disk | None:
    """Measure the disk of *directory*; None if it does not exist here or cannot be entered."""
    try:
        return measure(directory)
    except OSError:
        return None
