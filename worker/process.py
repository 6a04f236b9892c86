"""The worker process: the Celery application, the model loaded before the first message, and the signs of life."""

from __future__ import annotations

import functools
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from celery.signals import setup_logging, worker_init, worker_ready, worker_shutting_down
from sqlalchemy.exc import OperationalError

from db import logs
from db.errors import ConfigurationError
from db.jobs import wakeups
from db.jobs.celery_app import REPORT_TASK, depth, make_app, send
from db.operations import heartbeats
from db.session import transaction
from worker.claim_loop import DATABASE_PAUSE_SECONDS, Slots, say_unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from db.reports.versions import Draft
    from db.settings import Settings
    from worker.pipeline import StudyToReport

#: How often the engine's progress is looked at, in seconds.
STALL_LOOK_SECONDS = 1.0
#: EX_SOFTWARE of sysexits.h: whoever supervises the worker starts it again.
EXIT_STALLED = 70

log = structlog.get_logger()


#: Seconds Celery gets to say goodbye to the broker when the last report is finished.
FAREWELL_SECONDS = 3.0
#: A nudge that is due again for the second time and still not heard means that nobody listens here.
LOST_AFTER_NUDGES = 2
#: The shortest silence that proves anything: Celery itself pauses for 2, then 4 s before it connects again.
LEAST_SILENCE_SECONDS = 10
#: Seconds that Celery may take, on a busy machine, from the loaded model to the first message.
STARTING_SECONDS = 60
#: How often a worker told to stop looks whether its reports are finished, in seconds.
STOP_LOOK_SECONDS = 0.1


class Writer(Protocol):
    """What a worker holds for as long as it lives; worker.resident.Resident is the one that writes."""

    @property
    def info(self) -> dict[str, Any]:
        """For the process table."""

    @property
    def stalled_seconds(self) -> float:
        """How long there has been work and no progress; 0 when there is none."""

    def write(self, study: StudyToReport, on_progress: Callable[[], None]) -> Draft:
        """Write one study's report."""


def build(settings: Settings, load: Callable[[Settings], Writer]) -> Celery:
    """The application with its one task; *load* is called by the worker's first signal, never on import."""
    app = make_app(settings.broker())
    worker = Worker(settings, load, app)
    # The threads pool sends worker_init only; weak=False because nothing else holds the methods.
    setup_logging.connect(worker.configure_logs, weak=False)
    worker_init.connect(worker.load, weak=False)
    worker_ready.connect(worker.listen, weak=False)
    worker_shutting_down.connect(worker.stop, weak=False)
    app.task(name=REPORT_TASK)(worker.report)
    return app


class Worker:
    """One process, one model."""

    def __init__(self, settings: Settings, load: Callable[[Settings], Writer], app: Celery) -> None:
        self._settings = settings
        self._load = load
        self._app = app
        self._slots = Slots(settings)
        self._writer: Writer | None = None
        self._stopping = threading.Event()
        self._heard = time.monotonic()

    def configure_logs(self, **_: object) -> None:
        """In place of Celery's own, which would come back with its own format."""
        logs.configure(self._settings)

    def load(self, **_: object) -> None:
        """Load the model; where that fails, with one clear line, the process ends."""
        # Celery sets its logging up only after this signal.
        logs.configure(self._settings)
        try:
            self._writer = self._load(self._settings)
        except ConfigurationError as error:
            # Celery logs and swallows exceptions of signal handlers; SystemExit it lets through.
            log.error("worker_cannot_start", problem=str(error))  # noqa: TRY400 - expected, no traceback
            raise SystemExit(2) from None
        except Exception as error:  # noqa: BLE001 - whatever it is: Celery would go on without a model
            log.critical("worker_cannot_start", error=type(error).__name__, frames=logs.frames(error))
            raise SystemExit(EXIT_STALLED) from None
        self._heard = time.monotonic() + STARTING_SECONDS
        for loop in (self._beat, self._watch):
            threading.Thread(target=loop, args=(self._writer,), name=loop.__name__, daemon=True).start()

    def listen(self, **_: object) -> None:
        """From now on silence means something: before, Celery could not hear."""
        self._heard = time.monotonic()

    def stop(self, **_: object) -> None:
        """Celery takes no more messages and waits for running reports; not for longer than we want it to."""
        if not self._stopping.is_set():
            self._stopping.set()
            threading.Thread(target=self._leave, name="leave", daemon=True).start()

    def report(self, job_id: str) -> None:
        """Write the most urgent waiting reports. The message names a job, but only says that there is work."""
        if self._writer is None:
            raise RuntimeError("no model: the task runs only in a worker")
        self._heard = time.monotonic()
        with self._slots.at_work():
            if not self._answered(self._writer, job_id):
                # Taken from Redis before the stop and not begun: another worker shall have it.
                send(self._app, uuid.UUID(job_id))

    def _answered(self, writer: Writer, job_id: str) -> bool:
        """Whether the message is done with, other than by a stop. A database that is away does not use it up."""
        while not self._stopping.is_set():
            try:
                if not self._slots.answer(writer.write, functools.partial(send, self._app), self._stopping):
                    log.info("nothing_waits", job_id=job_id)
            except OperationalError as error:
                say_unreachable(error)
                self._stopping.wait(DATABASE_PAUSE_SECONDS)
            else:
                return True
        return False

    def _leave(self) -> None:
        try:
            self._finish_or_give_back()
            # Only Celery is left now. Where its broker went away it would wait for ever.
            time.sleep(FAREWELL_SECONDS)
        finally:
            # A thread cannot be ended: the process must, and what it writes from now on is dropped by the fence. Also
            # where the database is gone and nothing can be given back: the leases return it.
            os._exit(0)

    def _finish_or_give_back(self) -> None:
        deadline = time.monotonic() + self._settings.stop_seconds
        while self._slots.busy and time.monotonic() < deadline:
            time.sleep(STOP_LOOK_SECONDS)
        if self._slots.held():
            log.warning("reports_given_back", reports=self._slots.give_back())
            os._exit(0)

    def _beat(self, writer: Writer) -> None:
        while True:
            try:
                with transaction(self._settings.database(), durable=False) as session:
                    heartbeats.beat(session, "worker", writer.info)
                self._leave_if_deaf()
            except Exception as error:  # noqa: BLE001 - a loop's boundary: it must outlive a lost connection
                log.warning("beat_failed", why=type(error).__name__)
            if self._stopping.wait(heartbeats.BEAT_SECONDS):
                return

    def _leave_if_deaf(self) -> None:
        """End a process that is connected and consumes nothing (celery issue 10302): only a new one hears again."""
        after = max(LOST_AFTER_NUDGES * self._settings.nudge_seconds, LEAST_SILENCE_SECONDS)
        silence = time.monotonic() - self._heard
        if self._slots.busy or silence < after:
            return
        with transaction(self._settings.database()) as session:
            unheard = wakeups.overdue(session, after_seconds=self._settings.nudge_seconds / 2)
        if unheard and depth(self._app):
            log.critical("consumer_lost", seconds=round(silence), waiting=unheard)
            os._exit(EXIT_STALLED)

    def _watch(self, writer: Writer) -> None:
        """End the process when the model hangs: a thread stuck on a GPU cannot be ended, the leases return its jobs."""
        limit = self._settings.engine_stall_seconds
        while not self._stopping.wait(STALL_LOOK_SECONDS):
            stalled = writer.stalled_seconds
            if stalled > limit:
                log.critical("engine_stalled", seconds=f"{stalled:.0f}", limit=limit)
                os._exit(EXIT_STALLED)
