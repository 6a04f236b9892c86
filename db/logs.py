"""Structured logs on standard error: events with ids as fields, never patient data.

Ids are bound once, at the association, job or request, by ``structlog.contextvars.bound_contextvars(job_id=...)``;
every line logged inside carries them, also the lines of libraries. Each thread has its own context.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from typing import TYPE_CHECKING

import structlog

from db.environment import OLD_NAMES, old_names, variable

if TYPE_CHECKING:
    from types import TracebackType

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
    # A line or more for each attempt to reach the broker; db.jobs.outages reports an outage once.
    "celery.worker.consumer.consumer": logging.CRITICAL,
    "celery.worker.consumer.connection": logging.WARNING,
    # Its warnings quote values, which may be patient data.
    "pydicom": logging.CRITICAL,
    # Its lines quote what the peer sent; dicom_listener and its commands report every failure themselves.
    "pynetdicom": logging.CRITICAL,
    # A line or more for each attempt to send a batch; deploy.operate.traces.sender reports an outage once.
    "opentelemetry": logging.CRITICAL,
    # One line for each write to a connection that its client has closed.
    "asyncio": logging.ERROR,
    # Warnings of Python code: those of pydicom quote values.
    "py.warnings": logging.CRITICAL,
}
#: Fields that have several lines.
TRACEBACKS = frozenset({"exception", "stack"})


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
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_end_of_process
    threading.excepthook = _log_end_of_thread
    for name in old_names():
        structlog.get_logger().warning("setting.renamed", old=variable(name), new=variable(OLD_NAMES[name]))


def to_standard_error() -> None:
    """Send the records of a command to standard error, with structlog's own format: its output may be JSON or XML."""
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def _handler(settings: Settings) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*SHARED, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _without_colours,
                structlog.processors.format_exc_info,
                _escape_fields,
                _renderer(settings),
            ],
        )
    )
    return handler


def frames(error: BaseException) -> list[str]:
    """Return file, line and function of each frame of an error, without its text, which could quote patient data."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


def stack(thread: int) -> list[str]:
    """Return file, line and function of each frame that a thread executes now."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, the only access to other threads
    return [f"{entry.filename}:{entry.lineno} {entry.name}" for entry in traceback.extract_stack(frame)]


def escape(text: str) -> str:
    """Return *text* with escapes for the characters that are not printable: line ends, terminal codes, bidi marks.

    A peer chooses some texts, such as its AE title; a log line must not be split, hidden or coloured by them.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _escape_fields(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = "\n".join(map(escape, value.split("\n"))) if name in TRACEBACKS else escape(value)
    return event


def _log_end_of_process(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    """Log an exception that ends the process without its text, which could quote patient data."""
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger().critical("process.failed", error=kind.__name__, frames=frames(error))


def _log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is None or isinstance(ended.exc_value, SystemExit):
        return
    thread = ended.thread.name if ended.thread else ""
    structlog.get_logger().critical(
        "thread.failed", thread=thread, error=ended.exc_type.__name__, frames=frames(ended.exc_value)
    )


def _without_colours(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Drop the copy of the message with terminal codes that uvicorn adds."""
    event.pop("color_message", None)
    return event


def _renderer(settings: Settings) -> Processor:
    if settings.operations.log_format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
