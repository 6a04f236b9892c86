"""Read settings, set up logging and raise the limit of open files for a command; the console that commands print to."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import structlog
from rich.console import Console

from db import environment, logs
from db.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from db.settings import Settings

log = structlog.get_logger()

#: Columns of a pipe or file: a program that reads the output needs every id whole.
PIPE_COLUMNS = 200


def columns(stream: TextIO) -> int | None:
    """Return the width of what is printed to a pipe or file; None for that of the terminal, or of COLUMNS."""
    return None if stream.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS


console = Console(width=columns(sys.stdout), markup=False, highlight=False)

#: Open files that suffice for the default limits of connections and associations, with a margin.
MIN_OPEN_FILES = 4096
#: A higher limit is of no use, and some programs walk through every possible descriptor when they start another.
MAX_OPEN_FILES = 65536


#: What to do about an error of the operating system that says nothing about one file.
REMEDIES = {
    errno.ENOSPC: "free space on this disk (`df -h`, `df -i`), or enlarge it; `prelim retain` deletes old studies",
    errno.EDQUOT: "free space, or let the quota of this user be raised",
    errno.EROFS: "mount it writable; after an error the kernel mounts a disk read-only, see `dmesg`",
    errno.ENAMETOOLONG: "use a shorter one: a name has at most 255 bytes, a path 4095",
    errno.ELOOP: "correct the symbolic links: they lead in a circle",
}


def load_settings() -> Settings:
    """Return the settings; raises ConfigurationError, also if there can be no data directory at its path."""
    settings = environment.load_settings()
    require_directory(settings.operations.data_dir)
    return settings


def require_directory(data_dir: Path) -> None:
    """Raise ConfigurationError if there can be no directory at *data_dir*; a missing one can be created.

    One that cannot be entered is named where it is needed: a command with the URL of the database may not need it.
    """
    try:
        is_directory = stat.S_ISDIR(data_dir.stat().st_mode)
    except PermissionError:
        return
    except OSError as error:
        if error.errno != errno.ENOENT or _dangling(data_dir):
            raise ConfigurationError(f"PRELIM_DATA_DIR: {explained(error)}") from error
        return
    if not is_directory:
        problem = NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(data_dir))
        raise ConfigurationError(f"PRELIM_DATA_DIR: {explained(problem)}")


def explained(error: OSError) -> str:
    """Return a sentence with the path of an error, its cause and what to do."""
    cause = error.strerror or str(error)
    if error.filename is None:
        remedy = REMEDIES.get(error.errno or 0)
        return f"operating system: {cause}" + (f": {remedy}" if remedy else "")
    path = Path(os.fsdecode(error.filename))
    if isinstance(error, PermissionError):
        return refused(error)
    if error.errno in {errno.ENOTDIR, errno.EEXIST} and (file := _file(path)):
        return f"{path}: {_named(file, path)} exists and is not a directory: move it away, or name another path"
    if error.errno in {errno.ENOENT, errno.EEXIST} and (link := _dangling(path)):
        found = f"{_named(link, path)} is a symbolic link to {link.readlink()}, which is missing"
        return f"{path}: {found}: create or mount it, or correct the link"
    remedy = REMEDIES.get(error.errno or 0)
    return f"{path}: {cause}" + (f": {remedy}" if remedy else "")


def _named(place: Path, path: Path) -> str:
    """Return how a sentence that has *path* names *place*, which is the same or above it."""
    return "it" if place == path.absolute() else str(place)


def _file(path: Path) -> Path | None:
    """Return *path*, or what is above it, if it exists and is no directory."""
    place, status = next(_existing(path))
    return None if stat.S_ISDIR(status.st_mode) else place


def _dangling(path: Path) -> Path | None:
    """Return the symbolic link without a target at *path* or above it."""
    places = (path.absolute(), *path.absolute().parents)
    return next((place for place in places if place.is_symlink() and not place.exists()), None)


def process_settings() -> Settings:
    """Return the settings, with logging configured from them and the limit of open files raised."""
    settings = load_settings()
    require_access(settings.operations.data_dir)
    logs.configure(settings)
    raise_open_files()
    return settings


def require_access(data_dir: Path) -> None:
    """Raise ConfigurationError if another user's data directory cannot be used, before a process is imported."""
    if not data_dir.exists() or data_dir.stat().st_uid == os.geteuid():
        return  # it is created, or an error is named where it happens
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigurationError(refused(PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(data_dir))))


def refused(error: PermissionError) -> str:
    """Return a sentence with the refused path, the owner of what exists of it, this user, and what to do."""
    path = Path(os.fsdecode(error.filename))
    place, status = next(_existing(path))
    squashed = "; an NFS export must not map users (root_squash, all_squash)"
    users = f"{place} belongs to user {status.st_uid}, this command runs as user {os.geteuid()}"
    return f"{path}: {error.strerror}: {users}: {_remedy(path, place, status)}{squashed}"


def _remedy(path: Path, place: Path, status: os.stat_result) -> str:
    """Return what to do about *path*, of which *place* exists: only what the error names changes its owner."""
    user, owner = os.geteuid(), status.st_uid
    if owner == user:
        return f"its mode is {stat.S_IMODE(status.st_mode):o}: `chmod -R u+rwX {place}`, or mount it writable"
    if place == path.absolute():
        return f"run it as user {owner}, or `chown -R {user} {place}`"
    if os.access(place, os.X_OK):
        return f"run it as user {owner}, or create {path} as that user and `chown {user} {path}`"
    return f"run it as user {owner}, or give user {user} access to {place}"


def _existing(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield *path* and its parents as far as they exist and can be seen."""
    for place in (path.absolute(), *path.absolute().parents):
        with contextlib.suppress(OSError):
            yield place, place.stat()


def database_settings() -> Settings:
    """Return the settings of a process with a database; raises ConfigurationError if that must not be used.

    A pooler shares its sessions, or the restore of a backup was interrupted.
    """
    settings = process_settings()
    refuse_database(settings)
    return settings


def refuse_database(settings: Settings) -> None:
    """Raise ConfigurationError if a pooler shares sessions, or if a restore is not complete."""
    from deploy.launcher.pooling import refuse_shared_sessions
    from deploy.launcher.unfinished_restore import refuse

    refuse_shared_sessions(settings)
    refuse(settings)


def server_settings(name: str) -> Settings:
    """Return the settings of a server process; raises ConfigurationError if its port is in use."""
    settings = process_settings()
    from deploy.operate.doctor.ports import check_port

    check_port(settings, f"{name}_host", f"{name}_port")
    return settings


def raise_open_files() -> int:
    """Raise the soft limit of open files as far as the hard one allows; log a warning if that is low; return it.

    The soft limit of a login shell is often 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if 0 <= soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < MIN_OPEN_FILES:
        log.warning("open_files.low", limit=limit, wanted=MIN_OPEN_FILES, remedy="raise `ulimit -Hn` or LimitNOFILE")
    return limit
