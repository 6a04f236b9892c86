"""Child processes, as the kernel lists them."""

from __future__ import annotations

from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the ids of the children of a process, ended ones included until it has waited for them."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, thread.read_text().split())
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended
            continue
    return found


def descendants(pid: int) -> list[int]:
    """Return the ids of the children of a process, their children, and so on."""
    return [each for child in children(pid) for each in (child, *descendants(child))]
