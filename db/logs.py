"""Structured logs on standard error: events with ids as fields, never patient data."""

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


def configure(settings: Settings) -> None:
    """Send structlog's and the standard library's records the same way: `console` for eyes, `json` for collectors."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        # The filter first: what is not written costs nothing.
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _without_colours,
                structlog.processors.format_exc_info,
                _renderer(settings),
            ],
        )
    )
    logging.basicConfig(level=settings.operations.log_level.upper(), handlers=[handler], force=True)
    for name in old_names():
        structlog.get_logger().warning("setting.renamed", old=variable(name), new=variable(OLD_NAMES[name]))
    # Two lines a task, with arguments and results; our own say what became of the job.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # pydicom warns with the values it stumbles over, which may be a patient's.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    # The library's account of every association; ours is in dicom_listener.
    logging.getLogger("pynetdicom").setLevel(logging.WARNING)


def frames(error: BaseException) -> list[str]:
    """Where an error came from, without its text: a library's message may quote a header, and with it a patient."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


def _without_colours(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Uvicorn sends each message twice, once with terminal codes in it."""
    event.pop("color_message", None)
    return event


def _renderer(settings: Settings) -> Processor:
    if settings.operations.log_format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
