"""Check the rules, the checkpoint, the disk, the configured services and the ports before any process starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from db.errors import ConfigurationError
from deploy.operate.doctor import broker, configuration, data_disk, database_server, model_files
from deploy.operate.doctor.finding import Installation, Level
from deploy.operate.doctor.ports import SERVERS, check_port, twice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from db.settings import Settings
    from deploy.operate.doctor.finding import Finding


def check(settings: Settings) -> None:
    """Raise ConfigurationError for the first fault of `prelim doctor` with which a start would fail.

    A port in use must be found here: the other server could answer readiness checks instead.
    """
    for finding in _findings(Installation(settings)):
        if finding.level is Level.FAULT:
            raise ConfigurationError(f"{finding.found}: {finding.remedy}")
    if same := twice(settings):
        raise ConfigurationError(f"{same}: give each of them another port")
    for host, port in SERVERS.values():
        check_port(settings, host, port)


def _findings(installation: Installation) -> Iterator[Finding]:
    yield configuration.examine_rules(installation)
    yield model_files.examine_checkpoint(installation)
    yield data_disk.examine_space(installation)
    if installation.settings.operations.broker_url is not None:
        yield broker.reachable(installation)
    if installation.settings.operations.database_url is not None:
        yield database_server.reachable(installation)
