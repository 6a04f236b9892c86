"""Read settings, set up logging and raise the limit of open files for a command; the console that commands print to."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import structlog
from rich.console import Console

from db import logs
from db.environment import load_settings

if TYPE_CHECKING:
    from db.settings import Settings

log = structlog.get_logger()

console = Console(markup=False, highlight=False)

#: Open files that suffice for the default limits of connections and associations, with a margin.
MIN_OPEN_FILES = 4096
#: A higher limit is of no use, and some programs walk through every possible descriptor when they start another.
MAX_OPEN_FILES = 65536


def process_settings() -> Settings:
    """Return the settings, with logging configured from them and the limit of open files raised."""
    settings = load_settings()
    logs.configure(settings)
    raise_open_files()
    return settings


def database_settings() -> Settings:
    """Return the settings of a process with a database; raises ConfigurationError if a pooler shares sessions."""
    from deploy.launcher.pooling import refuse_shared_sessions

    settings = process_settings()
    refuse_shared_sessions(settings)
    return settings


def server_settings(name: str) -> Settings:
    """Return the settings of a server process; raises ConfigurationError if its port is in use."""
    from deploy.operate.doctor.ports import check_port

    settings = process_settings()
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
