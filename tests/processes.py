"""Child processes, as the kernel lists them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the ids of the children of a process, ended ones included until it has waited for them."""
    found: list[int] = []
    for thread in _threads(pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found += map(int, (thread / "children").read_text().split())
    return found


def _threads(pid: int) -> list[Path]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return list(Path(f"/proc/{pid}/task").iterdir())
    return []


def descendants(pid: int) -> list[int]:
    """Return the ids of the children of a process, their children, and so on."""
    return [each for child in children(pid) for each in (child, *descendants(child))]
