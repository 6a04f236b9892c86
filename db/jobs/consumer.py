"""Celery's consumer of wake-up messages, patient with a broker that refuses commands."""

from __future__ import annotations

import time

from celery.worker.consumer import Consumer

#: Pause before the consumer connects again, in seconds: a demoted Redis accepts connections and refuses commands.
PAUSE_SECONDS = 2.0


class PatientConsumer(Consumer):  # type: ignore[misc] # Celery has no types
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
