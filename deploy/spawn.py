"""Start a program that cannot outlive its parent, optionally as an ordinary user.

Run by path, as `python -I -S spawn.py SIGNAL PARENT UID GID PROGRAM ARGUMENTS...`, this file drops to UID and GID ("-"
keeps the caller's), asks Linux to send SIGNAL when the parent ends, and executes PROGRAM. Rejected: a preexec_fn,
because Python code between fork and exec can deadlock in a parent with threads; `subprocess(user=...)`, because a
change of user clears the death signal (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Account(NamedTuple):
    """The user and group that a program runs as."""

    uid: int
    gid: int


def spawn(
    command: Sequence[str | Path],
    *,
    death_signal: signal.Signals,
    account: Account | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    output: int | IO[bytes] = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start *command* in its own session; the kernel sends it *death_signal* when the calling thread ends.

    Linux watches the thread that forked, not the process: call from the main thread only. *cwd* is entered before the
    change of user, so it may lie below a directory that *account* cannot enter. *output* takes both streams.
    """
    uid, gid = account or ("-", "-")
    arguments = (death_signal.value, os.getpid(), uid, gid, *command)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, *map(str, arguments)],
        cwd=cwd,
        env=env,
        stdin=stdin,
        stdout=output,
        stderr=output if output != subprocess.PIPE else subprocess.STDOUT,
        start_new_session=True,
    )


@contextlib.contextmanager
def file_in_memory(text: str) -> Iterator[IO[bytes]]:
    """Yield a file with *text* for the stdin of a program of any user; it has no path and never reaches a disk."""
    with os.fdopen(os.memfd_create("stdin"), "r+b") as file:
        file.write(text.encode())
        file.seek(0)
        yield file


def exec_child(death_signal: str, parent: str, uid: str, gid: str, *command: str) -> None:
    """Replace this process by *command*; exit with a message if the parent has already ended."""
    prctl = ctypes.CDLL(None).prctl  # before the change of user: the interpreter may be readable by root only
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    prctl(PR_SET_PDEATHSIG, int(death_signal))
    if os.getppid() != int(parent):
        sys.exit("the parent ended before its child started")
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    exec_child(*sys.argv[1:])
