"""Ports of the servers: free, in use by Prelim, or in use by another program."""

from __future__ import annotations

import errno
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
    if (error := refusal(address, number)) is None:
        return
    if unusable := _unusable(error, address, number):
        raise ConfigurationError(f"PRELIM_{host.upper()}, PRELIM_{port.upper()}: {': '.join(unusable)}")
    raise ConfigurationError(f"port {number} of {address} is in use: set PRELIM_{port.upper()} to another")


def refusal(host: str, port: int) -> OSError | None:
    """Return the error with which a server could not bind the port now; None if it could."""
    with closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
        # As the servers do: a port in TIME_WAIT can be bound.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
        return None


def is_free(host: str, port: int) -> bool:
    """Return whether a server could bind the port now."""
    return refusal(host, port) is None


def _unusable(error: OSError, host: str, port: int) -> tuple[str, str] | None:
    """Return why no server of this user can bind the port, and the remedy; None if another program has it."""
    if error.errno in {errno.EACCES, errno.EPERM}:
        remedy = f"allow it with `sysctl net.ipv4.ip_unprivileged_port_start={port}`, or forward it to a higher port"
        return f"port {port} of {host} is for root only", remedy
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine", "see `ip address`; 0.0.0.0 means all of them"
    if isinstance(error, socket.gaierror):
        return f"the host name {host} cannot be resolved", "correct it, or give an address"
    return None


def twice(settings: Settings) -> str | None:
    """Return a sentence about a port that two servers would bind; None if each has its own."""
    values = settings.by_name()
    names: dict[int, list[str]] = {}
    for _, port in SERVERS.values():
        names.setdefault(values[port], []).append(f"PRELIM_{port.upper()}")
    return next((f"{' and '.join(same)} are both {port}" for port, same in names.items() if len(same) > 1), None)


def examine_ports(installation: Installation) -> Finding:
    """Compare the programs that hold the ports with the processes of Prelim."""
    if same := twice(installation.settings):
        return fault(same, "give each of them another port")
    from deploy.launcher.processes import PROCESSES  # noqa: PLC0415 - a port check of one server needs none of it

    values = installation.settings.by_name()
    answers = {str(process.name): process.ready for process in PROCESSES}
    free, ours = [], []
    for name, (host, port) in SERVERS.items():
        place = f"{values[port]} of {values[host]} ({name})"
        if (error := refusal(values[host], values[port])) is None:
            free.append(place)
        elif answers[name](installation.settings, None):
            ours.append(place)
        elif unusable := _unusable(error, values[host], values[port]):
            return fault(
                f"{unusable[0]} ({name})", f"{unusable[1]}; or set PRELIM_{host.upper()}, PRELIM_{port.upper()}"
            )
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
