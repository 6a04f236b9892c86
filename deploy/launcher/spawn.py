"""Starts a program that cannot outlive its parent, as an ordinary user where one is asked for.

Run by path, as `python -I -S leash.py SIGNAL PARENT UID GID PROGRAM ARGUMENTS...`, it drops to UID and GID ("-" keeps
the caller's), asks Linux for SIGNAL when the parent ends, and becomes PROGRAM. A program between rather than a
preexec_fn, because Python code between fork and exec can deadlock in a parent with threads; and rather than
`subprocess(user=...)`, because a change of user clears the wish for SIGNAL (prctl(2), PR_SET_PDEATHSIG).
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
    """The user and group a program runs as."""

    uid: int
    gid: int


def spawn(
    command: Sequence[str | Path],
    *,
    orphaned: signal.Signals,
    account: Account | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    output: int | IO[bytes] = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start *command* in a session of its own; it gets the signal *orphaned* when the calling thread ends.

    Linux watches the thread that forked, not the process: call this from the main thread only. *cwd* is entered
    before the change of user, so it may lie below a directory that *account* cannot pass. *output* takes both streams.
    """
    uid, gid = account or ("-", "-")
    words = (orphaned.value, os.getpid(), uid, gid, *command)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, *map(str, words)],
        cwd=cwd,
        env=env,
        stdin=stdin,
        stdout=output,
        stderr=output if output != subprocess.PIPE else subprocess.STDOUT,
        start_new_session=True,
    )


@contextlib.contextmanager
def file_in_memory(text: str) -> Iterator[IO[bytes]]:
    """A file with *text* for the stdin of a program of any user; it has no path and never reaches a disk."""
    with os.fdopen(os.memfd_create("stdin"), "r+b") as file:
        file.write(text.encode())
        file.seek(0)
        yield file


def become(orphaned: str, parent: str, uid: str, gid: str, *command: str) -> None:
    """Turn this process into *command*."""
    prctl = ctypes.CDLL(None).prctl  # looked up now: the interpreter may lie where only root can read
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    prctl(PR_SET_PDEATHSIG, int(orphaned))
    if os.getppid() != int(parent):
        sys.exit("the parent ended before its child began")
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    become(*sys.argv[1:])
