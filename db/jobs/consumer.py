"""Celery's consumer of wake-up messages, which pauses before it reconnects, and its remote stop."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import structlog
from celery.worker.consumer import Consumer
from celery.worker.control import control_command

log = structlog.get_logger()

#: Pause before the consumer connects again, in seconds: a demoted Redis accepts connections and refuses commands.
PAUSE_SECONDS = 2.0


class PausingConsumer(Consumer):  # type: ignore[misc] # Celery has no types
    """Consumer that pauses before it reconnects and counts an outage instead of logging each failure."""

    def on_connection_error_before_connected(self, exc: BaseException) -> None:
        """Note the failure and pause."""
        self._failed(exc)

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """Note the failure, drop the connection and pause."""
        super().on_connection_error_after_connected(exc)
        self._failed(exc)

    def _failed(self, error: BaseException) -> None:
        self.app.outage.failed(error)
        time.sleep(PAUSE_SECONDS)


@control_command()  # type: ignore[untyped-decorator] # Celery has no types
def shutdown(_state: object, **_: Any) -> dict[str, str]:
    """Stop this worker as SIGTERM does; replaces Celery's command, which waits for running reports without a limit."""
    log.info("worker.stop_requested")
    os.kill(os.getpid(), signal.SIGTERM)
    return {"ok": "stopping"}
