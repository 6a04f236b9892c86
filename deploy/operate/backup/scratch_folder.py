"""Scratch folder of a verification: it has patients' files in the clear, and must not outlive its command.

The command holds a lock on a file in it. A folder whose lock is free is of a command that was killed: the next one
deletes it, and `prelim doctor` names it.
"""

from __future__ import annotations

import fcntl
import shutil
import signal
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from deploy.embedded.server_process import POLL_SECONDS, STOP_SECONDS
from deploy.launcher.signals import SIGNALS, is_nohup

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

log = structlog.get_logger()

PREFIX = "prelim-restore-"
LOCK = "lock"
#: Seconds in which a new folder gets its lock.
NEW_SECONDS = 60
#: Status of a program that a signal ended, as shells give it: with the number of the signal.
SIGNALLED = 128


@contextmanager
def scratch(parent: Path | None) -> Iterator[Path]:
    """Create an empty folder below *parent*, by default the system's, which is removed after the block.

    Those of commands that were killed there are removed first. Raises OSError.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    for folder in abandoned(place):
        _remove(folder)
        log.warning("scratch.removed", folder=str(folder))
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as name:
        folder = Path(name)
        # Under another name until it is locked.
        with (folder / f"{LOCK}.new").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            Path(lock.name).rename(folder / LOCK)
            yield folder


def _remove(folder: Path) -> None:
    """Delete a folder once the database server of its killed command has ended."""
    deadline = time.monotonic() + STOP_SECONDS
    while _has_server(folder) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    shutil.rmtree(folder)


def abandoned(parent: Path) -> list[Path]:
    """Return the scratch folders in *parent* that no command uses; without those that this user cannot examine."""
    return [folder for folder in sorted(parent.glob(f"{PREFIX}*")) if _is_abandoned(folder)]


def _is_abandoned(folder: Path) -> bool:
    try:
        with (folder / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:  # killed before it had its lock, or of an earlier release
        return folder.is_dir() and time.time() - folder.stat().st_mtime > NEW_SECONDS and not _has_server(folder)
    except (PermissionError, NotADirectoryError):
        return False
    return True


def _has_server(folder: Path) -> bool:
    """Return whether the database server of a verification runs there; that of a killed one ends soon."""
    try:
        process = int((folder / "postgres" / "cluster" / "postmaster.pid").read_text().split()[0])
        return Path(f"/proc/{process}").exists()
    except (OSError, ValueError, IndexError):
        return False


@contextmanager
def removed_on_signals() -> Iterator[None]:
    """End the block by an exception at the first stop signal, so that its folder is removed; ignore further ones."""
    handled = [number for number in SIGNALS if not is_nohup(number)]

    def end(number: int, _frame: FrameType | None) -> None:
        for each in handled:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(SIGNALLED + number)

    before = {number: signal.signal(number, end) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
