"""Check the checkpoint, the disk, the ports and the configured services before any process starts."""

from __future__ import annotations

import shutil
import socket
from contextlib import closing
from typing import TYPE_CHECKING

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from db.answers import rules
from db.errors import ConfigurationError
from db.operations.disk import RESERVED_BYTES
from db.session import transaction

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings

#: Seconds for a configured service to answer: `prelim up` should fail while its user still looks.
CHECK_SECONDS = 5

#: Host and port settings of the servers of `prelim up`.
SERVERS = (("dicom_host", "dicom_port"), ("api_host", "api_port"), ("flower_host", "flower_port"))


def check(settings: Settings) -> None:
    """Raise ConfigurationError for invalid rules, and if a checkpoint, disk space, a service or a port is missing.

    A port in use must be found here: the other server could answer readiness checks instead.
    """
    rules.load(settings.study.rules)
    _check_checkpoint(settings)
    _check_disk(settings.operations.data_dir)
    _check_services(settings)
    for host, port in SERVERS:
        check_port(settings, host, port)


def check_port(settings: Settings, host: str, port: str) -> None:
    """Raise ConfigurationError, with the setting's name, if the port cannot be bound."""
    values = settings.by_name()
    address, number = values[host], values[port]
    if not is_free(address, number):
        raise ConfigurationError(f"port {number} of {address} is in use: set PRELIM_{port.upper()} to another")


def is_free(host: str, port: int) -> bool:
    """Return whether a server could bind the port now."""
    with closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
        # As the servers do: a port in TIME_WAIT can be bound.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _check_disk(directory: Path) -> None:
    """Raise ConfigurationError if the listener would refuse every object for lack of space."""
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < RESERVED_BYTES:
        raise ConfigurationError(
            f"{free >> 20} MiB are free on the disk of {directory}, and nothing is received below"
            f" {RESERVED_BYTES >> 20} MiB: free space, or set PRELIM_DATA_DIR to a larger disk"
        )


def _check_services(settings: Settings) -> None:
    """Raise ConfigurationError if a database or broker that the settings name does not answer."""
    if settings.operations.broker_url is not None:
        _check_broker(settings.broker())
    if settings.operations.database_url is not None:
        try:
            with transaction(settings.database()) as session:
                session.execute(text("SELECT 1"))
        except OperationalError as error:
            cause = str(error.orig).strip().splitlines()[0]
            raise ConfigurationError(f"PRELIM_DATABASE_URL: the database cannot be reached: {cause}") from error


def _check_broker(url: str) -> None:
    try:
        with Redis.from_url(url, socket_timeout=CHECK_SECONDS, socket_connect_timeout=CHECK_SECONDS) as client:
            client.ping()
    except (RedisError, OSError) as error:
        place = make_url(url).render_as_string(hide_password=True)
        raise ConfigurationError(
            f"PRELIM_BROKER_URL: {place} cannot be reached ({type(error).__name__}): start Redis there, or unset it to"
            " use the embedded one"
        ) from error


def _check_checkpoint(settings: Settings) -> None:
    directory = settings.checkpoint_directory
    if not (directory / "config.json").is_file():
        raise ConfigurationError(
            f"no checkpoint in {directory}: convert the published model with"
            f" `prelim checkpoint convert SOURCE {directory}`, set PRELIM_CHECKPOINT to another directory,"
            f" or create a random-weight model for smoke tests with `prelim checkpoint random {directory}`"
        )
