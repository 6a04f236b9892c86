"""What can be known to be wrong before anything is started: said in a second, with what to do about it."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from db.settings import Settings

#: Host and port settings of the servers we start.
SERVERS = (("dicom_host", "dicom_port"), ("api_host", "api_port"), ("flower_host", "flower_port"))


def check(settings: Settings) -> None:
    """Raise ConfigurationError where the checkpoint is missing or a port is taken.

    A taken port must be seen here: whoever has it could answer in our place and look ready.
    """
    _check_checkpoint(settings)
    for host, port in SERVERS:
        check_port(settings, host, port)


def check_port(settings: Settings, host: str, port: str) -> None:
    """Raise ConfigurationError, with the setting's name, where the port cannot be bound."""
    values = settings.by_name()
    address, number = values[host], values[port]
    if not is_free(address, number):
        raise ConfigurationError(f"port {number} of {address} is taken: choose another with PRELIM_{port.upper()}")


def is_free(host: str, port: int) -> bool:
    """Whether a server could bind the port now."""
    with closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
        # As the servers do: a port in TIME_WAIT is free.
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
            f"there is no checkpoint in {directory}: make one of the published model with"
            f" `prelim checkpoint convert SOURCE {directory}`, name another with PRELIM_CHECKPOINT,"
            f" or try the machinery with `prelim checkpoint random {directory}`, whose words mean nothing"
        )
