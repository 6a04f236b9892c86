"""Run the databases of `prelim up` that no setting names."""

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
    """Raised when another process on this machine already uses the data folder."""


@contextmanager
def embedded(settings: Settings) -> Iterator[list[Server]]:
    """Run the servers that PRELIM_DATABASE_URL and PRELIM_BROKER_URL do not name; yield them in starting order.

    Meanwhile the file `settings.embedded_services` holds their URLs for the other processes. Raises AlreadyRunning,
    ServerError, or ConfigurationError if the data folder belongs to another user.
    """
    directory = settings.embedded_services.parent
    try:
        settings.operations.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # it will hold patients' images
        private_directory(directory, None)
    except PermissionError as error:
        raise ConfigurationError(
            f"{settings.operations.data_dir} belongs to another user: run as that user, or set PRELIM_DATA_DIR"
        ) from error
    with exclusive_lock(directory / "lock"), ExitStack() as stack:
        servers = servers_to_run(settings)
        for server in servers.values():
            stack.enter_context(server)
        publish({name: server.url for name, server in servers.items()}, settings.embedded_services)
        stack.callback(settings.embedded_services.unlink)
        yield list(servers.values())


def servers_to_run(settings: Settings) -> dict[str, Server]:
    """Return the servers to run, by the setting that would name another one."""
    servers: dict[str, Server] = {}
    if settings.operations.database_url is None:
        servers["database_url"] = Postgres(settings.operations.data_dir / "postgres")
    if settings.operations.broker_url is None:
        servers["broker_url"] = Redis(settings.operations.data_dir / "redis")
    return servers


def publish(urls: Mapping[str, str], path: Path) -> None:
    """Write *urls* to *path*, readable by its owner only; a reader sees the old file or the new one, never a part."""
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    unfinished.write_text(json.dumps(urls))
    unfinished.rename(path)


@contextmanager
def exclusive_lock(lock: Path) -> Iterator[None]:
    """Hold *lock*; the kernel releases it when this process ends, by any cause. Raises AlreadyRunning."""
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyRunning(
                f"process {file.read() or '(starting)'} already uses {lock.parent.parent}: "
                "stop it, or set PRELIM_DATA_DIR to another folder"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
