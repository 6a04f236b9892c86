"""Structured logs on standard error: events with ids as fields, never patient data.

Ids are bound once, at the association, job or request, by ``structlog.contextvars.bound_contextvars(job_id=...)``;
every line logged inside carries them, also the lines of libraries. Each thread has its own context.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING

import structlog

from db.environment import OLD_NAMES, old_names, variable

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

    from db.settings import Settings


SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
LIBRARY_LEVELS = {
    # Two lines per task, with arguments and results; the worker logs the outcome of a job itself.
    "celery.worker.strategy": logging.WARNING,
    "celery.app.trace": logging.WARNING,
    # Its warnings quote values, which may be patient data.
    "pydicom": logging.CRITICAL,
    # It logs every association; dicom_listener logs its own.
    "pynetdicom": logging.WARNING,
}


def configure(settings: Settings) -> None:
    """Send the records of structlog and of the standard library to standard error, in the configured format."""
    structlog.configure(
        # The filter is first: a record below the level costs almost nothing.
        processors=[structlog.stdlib.filter_by_level, *SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=settings.operations.log_level.upper(), handlers=[_handler(settings)], force=True)
    for name, level in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    for name in old_names():
        structlog.get_logger().warning("setting.renamed", old=variable(name), new=variable(OLD_NAMES[name]))


def _handler(settings: Settings) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*SHARED, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _without_colours,
                structlog.processors.format_exc_info,
                _renderer(settings),
            ],
        )
    )
    return handler


def frames(error: BaseException) -> list[str]:
    """Return file, line and function of each frame of an error, without its text, which could quote patient data."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


def _without_colours(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Drop the copy of the message with terminal codes that uvicorn adds."""
    event.pop("color_message", None)
    return event


def _renderer(settings: Settings) -> Processor:
    if settings.operations.log_format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
