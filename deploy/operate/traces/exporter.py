"""Access to the exporter of OpenTelemetry, an optional package: it is not imported before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from db.errors import ConfigurationError, PrelimError

if TYPE_CHECKING:
    from db.settings import Settings
    from deploy.operate.traces.collector import Collector

#: Seconds of a batch of the sender; below the time in which the process must end.
SEND_SECONDS = 10.0


class NotSent(PrelimError):
    """Raised if the collector did not accept a batch; the text is the cause."""


def open_collector(settings: Settings, seconds: float = SEND_SECONDS) -> Collector:
    """Return the collector of PRELIM_TRACES_URL; raises ConfigurationError without it, or without the packages.

    A batch is repeated for up to *seconds* if the collector cannot be reached or is overloaded.
    """
    if settings.operations.traces_url is None:
        raise ConfigurationError("PRELIM_TRACES_URL is not set: write the collector's address, http://host:4318")
    try:
        from deploy.operate.traces.collector import Collector  # noqa: PLC0415 - an optional package
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"PRELIM_TRACES_URL is set, and {error.name} is not installed: pip install 'prelim[otel]', or build the"
            " image with EXTRA=otel"
        ) from error
    return Collector(settings.operations.traces_url, seconds)
