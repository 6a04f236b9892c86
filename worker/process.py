"""The worker process: the Celery application, the model loaded before the first message, and the signs of life."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import structlog
from celery.signals import setup_logging, worker_init, worker_shutting_down

from db import logs, processes
from db.errors import ConfigurationError
from db.jobqueue import REPORT_TASK, make_app
from db.session import transaction
from worker import tasks
from worker.resident import Resident

if TYPE_CHECKING:
    from celery import Celery

    from db.settings import Settings

#: How often the engine's progress is looked at, in seconds.
STALL_LOOK_SECONDS = 1.0
#: EX_SOFTWARE of sysexits.h: whoever supervises the worker starts it again.
EXIT_STALLED = 70

log = structlog.get_logger()


def build(settings: Settings) -> Celery:
    """The application with its one task; the model is loaded by the worker's first signal, never on import."""
    app = make_app(settings.broker())
    worker = Worker(settings)
    # The threads pool sends worker_init only; weak=False because nothing else holds the methods.
    setup_logging.connect(worker.configure_logs, weak=False)
    worker_init.connect(worker.load, weak=False)
    worker_shutting_down.connect(worker.stop, weak=False)
    app.task(name=REPORT_TASK)(worker.report)
    return app


class Worker:
    """One process, one model."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._resident: Resident | None = None
        self._stopping = threading.Event()

    def configure_logs(self, **_: object) -> None:
        """In place of Celery's own, which would come back with its own format."""
        logs.configure(self._settings)

    def load(self, **_: object) -> None:
        """Load the model; a bad checkpoint ends the process with one clear line."""
        # Celery sets its logging up only after this signal.
        logs.configure(self._settings)
        try:
            self._resident = Resident.load(self._settings)
        except ConfigurationError as error:
            # Celery logs and swallows exceptions of signal handlers; SystemExit it lets through.
            log.error("worker_cannot_start", problem=str(error))  # noqa: TRY400 - expected, no traceback
            raise SystemExit(2) from None
        for loop in (self._beat, self._watch):
            threading.Thread(target=loop, args=(self._resident,), name=loop.__name__, daemon=True).start()

    def stop(self, **_: object) -> None:
        """Celery lets running reports finish; the threads end with the process."""
        self._stopping.set()

    def report(self, job_id: str) -> None:
        """Write the most urgent waiting report. The message names a job, but only says that there is work."""
        if self._resident is None:
            raise RuntimeError("no model: the task runs only in a worker")
        if tasks.run(self._settings, self._resident.write) is None:
            log.info("nothing_waits", job_id=job_id)

    def _beat(self, resident: Resident) -> None:
        while True:
            try:
                with transaction(self._settings.database()) as session:
                    processes.beat(session, "worker", resident.info)
            except Exception:
                log.warning("beat_failed", exc_info=True)
            if self._stopping.wait(processes.BEAT_SECONDS):
                return

    def _watch(self, resident: Resident) -> None:
        """End the process when the model hangs: a thread stuck on a GPU cannot be ended, the leases return its jobs."""
        limit = self._settings.engine_stall_seconds
        while not self._stopping.wait(STALL_LOOK_SECONDS):
            stalled = resident.stalled_seconds
            if stalled > limit:
                log.critical("engine_stalled", seconds=round(stalled), limit=limit)
                os._exit(EXIT_STALLED)
