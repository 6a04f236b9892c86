"""The databases that `prelim up` brings along where no other was named."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from db.errors import ConfigurationError, PrelimError
from deploy.embedded.accounts import private_directory
from deploy.embedded.postgres import Postgres
from deploy.embedded.redis import Redis

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from db.settings import Settings
    from deploy.embedded.server_process import Server


class AlreadyRunning(PrelimError):
    """Raised when another process of this machine already runs its services on the data folder."""


@contextmanager
def embedded(settings: Settings) -> Iterator[list[Server]]:
    """Run what PRELIM_DATABASE_URL and PRELIM_BROKER_URL do not name, in starting order.

    While it runs, `settings.embedded_services` tells the other processes where. Raises AlreadyRunning, ServerError, or
    ConfigurationError where the data folder is another user's.
    """
    directory = settings.embedded_services.parent
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # patients' images will lie here
        private_directory(directory, None)
    except PermissionError as error:
        raise ConfigurationError(
            f"{settings.data_dir} is another user's: be that user, or choose another folder with PRELIM_DATA_DIR"
        ) from error
    with sole_user(directory / "lock"), ExitStack() as stack:
        servers = wanted(settings)
        for server in servers.values():
            stack.enter_context(server)
        publish({name: server.url for name, server in servers.items()}, settings.embedded_services)
        stack.callback(settings.embedded_services.unlink)
        yield list(servers.values())


def wanted(settings: Settings) -> dict[str, Server]:
    """The servers nobody else provides, by the setting that would name another."""
    servers: dict[str, Server] = {}
    if settings.database_url is None:
        servers["database_url"] = Postgres(settings.data_dir / "postgres")
    if settings.broker_url is None:
        servers["broker_url"] = Redis(settings.data_dir / "redis")
    return servers


def publish(urls: Mapping[str, str], path: Path) -> None:
    """Write *urls* to *path*, for its owner's eyes; a reader sees the old file or the new one, whole."""
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    unfinished.write_text(json.dumps(urls))
    unfinished.rename(path)


@contextmanager
def sole_user(lock: Path) -> Iterator[None]:
    """Hold *lock*; the kernel lets it go when we end, however we end."""
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyRunning(
                f"process {file.read() or '(starting)'} already runs on {lock.parent.parent}: "
                "stop it, or choose another folder with PRELIM_DATA_DIR"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
