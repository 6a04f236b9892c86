"""Check the checkpoint and the ports before any process starts."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from db.settings import Settings

#: Host and port settings of the servers of `prelim up`.
SERVERS = (("dicom_host", "dicom_port"), ("api_host", "api_port"), ("flower_host", "flower_port"))


def check(settings: Settings) -> None:
    """Raise ConfigurationError if the checkpoint is missing or a port is in use.

    A port in use must be found here: the other server could answer readiness checks instead.
    """
    _check_checkpoint(settings)
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


def _check_checkpoint(settings: Settings) -> None:
    directory = settings.checkpoint_directory
    if not (directory / "config.json").is_file():
        raise ConfigurationError(
            f"no checkpoint in {directory}: convert the published model with"
            f" `prelim checkpoint convert SOURCE {directory}`, set PRELIM_CHECKPOINT to another directory,"
            f" or create a random-weight model for smoke tests with `prelim checkpoint random {directory}`"
        )
