"""Choose the user, the owner of the files and the program paths of a server that root starts.

PostgreSQL refuses to run as root, and no server should. Yet the data and the wheels' programs may be below /root,
which no other user may enter, and opening it (or granting one user a way through it) would expose everything else
there. The data therefore stays where it was configured: a server is started *inside* its directory and never names it
from outside (`/proc/self/cwd`). Programs need a path that their user can enter, since PostgreSQL resolves its own with
realpath(3): otherwise they are copied, once, to /var/cache. Rejected: keeping the data itself under /var/lib (a volume
mounted for the data directory would not hold the data), ACLs on parents, mount namespaces (need more than root has in
a container).
"""

import hashlib
import os
import pwd
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from db.errors import ConfigurationError
from deploy.spawn import Account

PROGRAM_CACHE = Path("/var/cache/prelim")
ORDINARY_USERS = ("prelim", "nobody")  # a dedicated account if the operator created one


def require_linux() -> None:
    """Raise ConfigurationError on other systems: only Linux ends the children of a killed parent."""
    if sys.platform != "linux":
        raise ConfigurationError(
            "`prelim up` and its databases run on Linux only: use docker-compose.yml, or start the processes one by "
            "one (docs/deploy.md) with PRELIM_DATABASE_URL and PRELIM_BROKER_URL"
        )


def service_account() -> Account | None:
    """Return the ordinary user for servers started by root; None if the caller is an ordinary user."""
    if os.geteuid() != 0:
        return None
    for name in ORDINARY_USERS:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(user.pw_uid, user.pw_gid)
    raise ConfigurationError(
        f"no ordinary user to run the databases as: add one of {', '.join(ORDINARY_USERS)}, or do not run as root"
    )


def private_directory(directory: Path, account: Account | None) -> Path:
    """Return *directory*, created if missing, with its content owned by *account* and closed to all other users."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    if account and directory.stat().st_uid != account.uid:
        for path in (*directory.rglob("*"), directory):  # the directory last: an interrupted change is repeated
            os.chown(path, *account, follow_symlinks=False)
    return directory


def accessible_copy(programs: Path, parts: tuple[str, ...], account: Account | None) -> Path:
    """Return a directory with the files and folders *parts* of *programs*, at a path that *account* can enter.

    *parts* begins with the program itself: its content names the copy, so that installations of one version share it.
    """
    if account is None or is_public(programs / parts[0]):
        return programs
    with (programs / parts[0]).open("rb") as program:
        copy = PROGRAM_CACHE / hashlib.file_digest(program, "sha256").hexdigest()[:16]
    if not copy.exists():
        copy_programs(programs, parts, copy)
    return copy


def is_public(program: Path) -> bool:
    """Return whether any user may reach *program* and run it."""
    path = program.resolve()
    return all(step.stat().st_mode & stat.S_IXOTH for step in (path, *path.parents))


def copy_programs(programs: Path, parts: tuple[str, ...], copy: Path) -> None:
    """Copy *parts* of *programs* to *copy* atomically: it appears complete or not at all."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.parent.chmod(0o755)  # independent of the umask: it holds published programs only
    with tempfile.TemporaryDirectory(dir=copy.parent) as unfinished:
        complete = Path(unfinished, "programs")
        for part in parts:
            copy_part(programs / part, complete / part)
        open_to_all(complete)
        try:
            complete.rename(copy)
        except OSError:
            if not copy.exists():  # otherwise another instance was faster, with the same content
                raise


def open_to_all(folder: Path) -> None:
    """Give all users the owner's read and execute permissions, from *folder* down."""
    for path in (folder, *folder.rglob("*")):
        owner = path.stat().st_mode & 0o500
        path.chmod(path.stat().st_mode | owner >> 3 | owner >> 6)


def copy_part(source: Path, target: Path) -> None:
    """Copy a file or a folder to *target*; files copied earlier are kept."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
