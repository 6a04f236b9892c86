"""Processors and memory that this process may use: those of the machine, or less in a container or a systemd service.

Both set limits by a control group (cgroups(7)), which Python and most libraries do not read: on a machine with 32
processors, a container with 2 would start 32 threads that wait for each other.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Mount point of the control groups, below the root; those of version 1 are in folders by controller.
MOUNT = "sys/fs/cgroup"
#: Variables that set the number of threads of OpenMP (torch, faiss) and of OpenBLAS (NumPy).
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: Simultaneous reports for each processor and for each GiB beyond the first, which the processes themselves take.
SLOTS_PER_PROCESSOR, SLOTS_PER_GIB = 2, 1


def processors(root: Path = Path("/")) -> float:
    """Return the number of processors, a fraction if the limit is one."""
    found = [float(len(os.sched_getaffinity(0)))]
    for folder in _groups(root, "cpu"):
        both = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        # `max` or -1 is no limit.
        if len(both) > 1 and both[0].isdigit() and int(both[0]):
            found.append(int(both[0]) / int(both[1]))
    return min(found)


def whole_processors(root: Path = Path("/")) -> int:
    """Return the number of threads or processes that can run at the same time, at least 1."""
    return max(int(processors(root)), 1)


def memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory; None if the kernel does not tell."""
    lines = (line.split() for line in _text(root / "proc/meminfo").splitlines())
    found = [int(words[1]) * 1024 for words in lines if words[0] == "MemTotal:"]
    for folder in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            found += [int(limit) for limit in _words(folder / name) if limit.isdigit()]
    return min(found, default=None)


def slots(default: int, root: Path = Path("/")) -> int:
    """Return *default* simultaneous reports, or fewer where processors or memory are limited; at least 1."""
    limits = [default, int(processors(root) * SLOTS_PER_PROCESSOR)]
    available = memory(root)
    if available is not None:
        limits.append(((available >> 30) - 1) * SLOTS_PER_GIB)
    return max(min(limits), 1)


def limit_threads(root: Path = Path("/")) -> None:
    """Set the numbers of threads of libraries that are loaded later, unless they are set; children inherit them."""
    if processors(root) < len(os.sched_getaffinity(0)):
        for name in THREADS:
            os.environ.setdefault(name, str(whole_processors(root)))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of those around it: the lowest limit of all counts.

    A container sees its own group as the mount point, whether or not /proc names the group as the host does.
    """
    paths = {PurePosixPath("/")}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            paths.add(PurePosixPath(path))
    for mount in (root / MOUNT, root / MOUNT / controller):
        for folder in {each for path in paths for each in (path, *path.parents)}:
            yield mount / folder.relative_to("/")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _words(path: Path) -> list[str]:
    return _text(path).split()
