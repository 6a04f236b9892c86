"""What changes when root starts a service: who runs it, who owns its files, where its programs lie.

PostgreSQL refuses to run as root, and no server should. Yet the data and the wheels' programs may lie below /root,
which nobody else may enter, and opening it (or granting one user a way through it) would expose whatever else is
there. So the data stays where it was asked for: a service is started *inside* its directory and never names it from
outside (`/proc/self/cwd`). Programs need a path their user can walk, since PostgreSQL resolves its own with
realpath(3): where there is none they are copied, once, to /var/cache. Rejected: keeping the data itself under /var/lib
(a volume mounted for the data directory would not hold the data), ACLs on parents, mount namespaces (need more than
root has in a container).
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from db.errors import ConfigurationError
from deploy.launcher.spawn import Account

PROGRAM_CACHE = Path("/var/cache/prelim")
ORDINARY_USERS = ("prelim", "nobody")  # an account of its own where the operator made one


def require_linux() -> None:
    """Raise ConfigurationError elsewhere: only Linux ends our children with us, whatever happens to us."""
    if sys.platform != "linux":
        raise ConfigurationError(
            "`prelim up` and its databases run on Linux only: use docker-compose.yml, or start the processes one by "
            "one (docs/deploy.md) with PRELIM_DATABASE_URL and PRELIM_BROKER_URL"
        )


def service_account() -> Account | None:
    """The ordinary user that services run as when we are root; None when we are ordinary ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ORDINARY_USERS:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(user.pw_uid, user.pw_gid)
    raise ConfigurationError(f"Root needs an ordinary user for the databases, one of {ORDINARY_USERS}: add one")


def private_directory(directory: Path, account: Account | None) -> Path:
    """*directory*, made where absent, with all in it owned by *account* and closed to everyone else."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    if account and directory.stat().st_uid != account.uid:
        for path in (*directory.rglob("*"), directory):  # itself last: an interrupted change is done again
            os.chown(path, *account, follow_symlinks=False)
    return directory


def within_reach(programs: Path, parts: tuple[str, ...], account: Account | None) -> Path:
    """A directory with the files and folders *parts* of *programs*, at a path that *account* can walk.

    *parts* begins with the program itself: its content names the copy, so that clones share one.
    """
    if account is None or is_public(programs / parts[0]):
        return programs
    with (programs / parts[0]).open("rb") as program:
        copy = PROGRAM_CACHE / hashlib.file_digest(program, "sha256").hexdigest()[:16]
    if not copy.exists():
        copy_programs(programs, parts, copy)
    return copy


def is_public(program: Path) -> bool:
    """Whether any user may walk to *program* and run it."""
    path = program.resolve()
    return all(step.stat().st_mode & stat.S_IXOTH for step in (path, *path.parents))


def copy_programs(programs: Path, parts: tuple[str, ...], copy: Path) -> None:
    """Copy *parts* of *programs* to *copy*, which appears whole or not at all."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.parent.chmod(0o755)  # whatever the umask: it holds nothing but published programs
    with tempfile.TemporaryDirectory(dir=copy.parent) as unfinished:
        whole = Path(unfinished, "programs")
        for part in parts:
            copy_part(programs / part, whole / part)
        open_to_all(whole)
        try:
            whole.rename(copy)
        except OSError:
            if not copy.exists():  # else another instance was faster, with the same content
                raise


def open_to_all(folder: Path) -> None:
    """Let every user read what its owner reads, and run what its owner runs, from *folder* down."""
    for path in (folder, *folder.rglob("*")):
        owner = path.stat().st_mode & 0o500
        path.chmod(path.stat().st_mode | owner >> 3 | owner >> 6)


def copy_part(source: Path, target: Path) -> None:
    """Copy a file or a folder to *target*; what was copied already stays."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
