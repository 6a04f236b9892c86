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


@contextlib.contextmanager
def held(files: Iterable[Path]) -> Iterator[list[Path]]:
    """Lock *files*; yields those that no other dispatcher indexes now. The others stay in the inbox."""
    now = time.monotonic()
    for name in [name for name, found_at in _found_at.items() if now - found_at > REMEMBERED_SECONDS]:
        del _found_at[name]
    with contextlib.ExitStack() as locks:
        yield [path for path in files if _lock(path, locks)]


def _lock(path: Path, locks: contextlib.ExitStack) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # the indexer reports it
        return True
    locks.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        now = time.monotonic()
        return now - _found_at.setdefault(path.name, now) > FROZEN_SECONDS
    except OSError:  # a file system without locks
        pass
    return True
