"""Locks on received files, so that two dispatchers never index one file at the same time.

Otherwise one of them could link a duplicate into the store again after the other has removed it there and in the inbox.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

#: Seconds after which a lock is ignored: its dispatcher is frozen, and the rows are unique without it.
FROZEN_SECONDS = 10.0
#: Seconds for which a lock is remembered; its file has left the inbox long before.
REMEMBERED_SECONDS = 60.0

#: When this process first found the lock of another one, by file name.
_found_at: dict[str, float] = {}


class Held:
    """Files that this dispatcher indexes now, with or without a lock on each."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self._locked: set[Path] = set()
        self._since = time.monotonic()

    def is_exclusive(self, path: Path) -> bool:
        """Return whether certainly no other dispatcher indexes the file: it is locked, and nobody ignores the lock."""
        return path in self._locked and time.monotonic() - self._since < FROZEN_SECONDS

    def lock(self, path: Path, locks: contextlib.ExitStack) -> None:
        """Add the file unless another dispatcher indexes it; its lock ends with *locks*."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # the indexer reports it
            self.paths.append(path)
            return
        locks.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._locked.add(path)
        except BlockingIOError:
            now = time.monotonic()
            if now - _found_at.setdefault(path.name, now) <= FROZEN_SECONDS:
                return
        except OSError:  # a file system without locks
            pass
        self.paths.append(path)


@contextlib.contextmanager
def held(files: Iterable[Path]) -> Iterator[Held]:
    """Lock *files*; yields those that no other dispatcher indexes now. The others stay in the inbox."""
    now = time.monotonic()
    for name in [name for name, found_at in _found_at.items() if now - found_at > REMEMBERED_SECONDS]:
        del _found_at[name]
    with contextlib.ExitStack() as locks:
        found = Held()
        for path in files:
            found.lock(path, locks)
        yield found
