"""Ports of the servers: free, in use by Prelim, or in use by another program."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING

from db.errors import ConfigurationError
from deploy.operate.doctor.finding import Check, Finding, fault, ok, warning

if TYPE_CHECKING:
    from db.settings import Settings
    from deploy.operate.doctor.finding import Installation

#: Process, and the host and port settings of its server.
SERVERS = {
    "listener": ("dicom_host", "dicom_port"),
    "api": ("api_host", "api_port"),
    "flower": ("flower_host", "flower_port"),
}


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


def examine_ports(installation: Installation) -> Finding:
    """Compare the programs that hold the ports with the processes of Prelim."""
    from deploy.launcher.processes import PROCESSES  # noqa: PLC0415 - a port check of one server needs none of it

    values = installation.settings.by_name()
    answers = {str(process.name): process.ready for process in PROCESSES}
    free, ours = [], []
    for name, (host, port) in SERVERS.items():
        place = f"{values[port]} of {values[host]} ({name})"
        if is_free(values[host], values[port]):
            free.append(place)
        elif answers[name](installation.settings, None):
            ours.append(place)
        else:
            return fault(
                f"port {place} is in use, and no {name} of Prelim answers there",
                f"stop the other program (`ss -ltnp`), restart a {name} that hangs, or set PRELIM_{port.upper()}",
            )
    return ok("; ".join(f"{state}: {', '.join(found)}" for state, found in (("served", ours), ("free", free)) if found))


def examine_reach(installation: Installation) -> Finding:
    """Report a listener that only this machine can reach."""
    settings = installation.settings.dicom
    place = f"{settings.dicom_host}:{settings.dicom_port}"
    if installation.is_remote:
        return ok(f"the listener binds {place}")
    return warning(
        f"the listener binds {place}: only this machine can send",
        "set PRELIM_DICOM_HOST to the address in the modalities' network, or 0.0.0.0 for all",
    )


CHECKS = (
    Check("ports", "a process whose port is taken does not start", examine_ports),
    Check("dicom_address", "a modality cannot send to a listener on the loopback address", examine_reach),
)
