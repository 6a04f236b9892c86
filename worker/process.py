"""The worker process: the Celery application, the model loaded before the first message, heartbeat and watchdog."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from celery.signals import setup_logging, worker_init, worker_ready, worker_shutting_down
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from db import logs
from db.errors import ConfigurationError
from db.jobs import lost_gpus, wakeups
from db.jobs.celery_app import BROKER_ERRORS, JOB_TASK, depth, make_app, probe, send
from db.operations import heartbeats
from db.operations.probes import status_socket
from db.operations.probes.status_socket import NEVER, HealthCheck, Loop
from db.session import limit_statements, statements, transaction
from worker.attempt import DATABASE_PAUSE_SECONDS, MARGIN
from worker.claim_loop import ClaimLoop, JobFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from db.jobs.celery_app import App
    from db.settings import Settings
    from worker.attempt import Result
    from worker.pipeline.pipeline import StudyToReport

log = structlog.get_logger()

#: EX_SOFTWARE of sysexits.h: the supervisor starts the worker again.
EXIT_STALLED = 70
#: Connections beside those of the slots: heartbeat, watchdog, return of jobs.
SPARE_CONNECTIONS = 3
#: Interval at which the engine's progress is checked, in seconds: a small part of any stall limit.
STALL_POLL_SECONDS = 1.0
#: Interval at which a worker with a free slot looks for overdue jobs, in seconds.
POLL_SECONDS = 1.0
#: Seconds after which a job is claimed without a message; a message takes milliseconds.
OVERDUE_SECONDS = 2.0
#: Interval at which a stopping worker checks whether its reports are finished, in seconds.
STOP_POLL_SECONDS = 0.1
#: Time to return jobs to the queue before a stalled process exits, in seconds.
RETURN_SECONDS = 5.0
#: Time for Celery to close its connection to the broker after the last report, in seconds.
SHUTDOWN_GRACE_SECONDS = 3.0
#: Deliveries of a wake-up message that must be missed before the consumer counts as lost: one may be late.
MISSED_DELIVERIES = 2
#: Shortest silence that counts, in seconds: Celery itself pauses for 2, then 4 s before it reconnects.
MIN_SILENCE_SECONDS = 10
#: Seconds without progress up to which this process is ready, and up to which it is live; a heartbeat can take 13 s.
READY_SECONDS, LIVE_SECONDS = 25.0, 90.0
#: Time Celery may take on a busy machine from the loaded model to the first message, in seconds.
STARTUP_SECONDS = 60


class Writer(Protocol):
    """The writer of reports and answers that a worker keeps for its whole life: worker.resident.Resident, or a fake."""

    @property
    def info(self) -> dict[str, Any]:
        """Figures for the heartbeat row."""

    @property
    def stalled_seconds(self) -> float:
        """Seconds without progress although there is work; 0 if there is none."""

    def write(self, study: StudyToReport, on_progress: Callable[[], None]) -> Result:
        """Write the report of one study, or the answer to its inquiry."""


def build(settings: Settings, load: Callable[[Settings], Writer]) -> App:
    """Return the application with its one task; *load* is called by the worker's first signal, never on import."""
    app = make_app(settings.broker())
    worker = Worker(settings, load, app)
    # The threads pool sends worker_init only; weak=False because nothing else holds the methods.
    setup_logging.connect(worker.configure_logs, weak=False)
    worker_init.connect(worker.load, weak=False)
    worker_ready.connect(worker.start_consuming, weak=False)
    worker_shutting_down.connect(worker.stop, weak=False)
    add_task(app, worker.report)
    return app


def add_task(app: App, report: Callable[[str], None]) -> None:
    """Register *report* as the one task of *app*; JobFailed ends it as FAILURE, in one log line."""
    app.task(name=JOB_TASK, shared=False, throws=(JobFailed,), on_failure=staticmethod(_drop_traceback))(report)


def _drop_traceback(error: Exception, _task_id: str, _args: object, _kwargs: object, info: Any) -> None:
    """Remove the traceback of a failed job from its event: it names only the line that raised JobFailed."""
    if isinstance(error, JobFailed):
        info.traceback = ""


class Worker:
    """One process with one model: the handlers of its Celery signals and of its one task."""

    def __init__(self, settings: Settings, load: Callable[[Settings], Writer], app: App) -> None:
        self._settings = settings
        self._load = load
        self._app = app
        self._jobs = ClaimLoop(settings)
        self._writer: Writer | None = None
        self._stopping = threading.Event()
        self._last_message = time.monotonic()
        #: True if messages waited at the last heartbeat although the process was idle.
        self._unread = False
        #: True until the first heartbeat is committed.
        self._begins = True
        self._loops = {"heartbeat": Loop("the heartbeat"), "watchdog": Loop("the watchdog")}

    def checks(self) -> Iterable[HealthCheck]:
        """Yield the checks of this process for health probes."""
        if self._writer is None or self._stopping.is_set():
            yield HealthCheck("it is stopping" if self._stopping.is_set() else "the model is not loaded", NEVER, 0)
            return
        limit = self._settings.operations.engine_stall_seconds + LIVE_SECONDS  # the watchdog ends it before
        yield HealthCheck("the model has made no progress", self._writer.stalled_seconds, READY_SECONDS, limit)
        for loop in self._loops.values():
            yield from loop.checks(READY_SECONDS, LIVE_SECONDS)

    def configure_logs(self, **_: object) -> None:
        """Replace Celery's logging configuration, which has its own format."""
        logs.configure(self._settings)

    def load(self, **_: object) -> None:
        """Load the model and start heartbeat and watchdog; exit with one clear line if it cannot be loaded."""
        # Celery configures logging only after this signal.
        logs.configure(self._settings)
        limit_statements(self._settings, connections=self._settings.queue.worker_slots + SPARE_CONNECTIONS)
        status_socket.serve(heartbeats.Role.WORKER, self._settings.operations.data_dir, self.checks)
        try:
            writer = self._load(self._settings)
        except ConfigurationError as error:
            # Celery logs and swallows exceptions of signal handlers; SystemExit passes through.
            log.error("worker.start_failed", problem=str(error))  # noqa: TRY400 - expected, no traceback
            raise SystemExit(2) from None
        except Exception as error:  # noqa: BLE001 - a process boundary: Celery would continue without a model
            log.critical("worker.start_failed", error=type(error).__name__, frames=logs.frames(error))
            raise SystemExit(EXIT_STALLED) from None
        self._last_message = time.monotonic() + STARTUP_SECONDS
        for each in self._loops.values():
            each.passed(failed=True)  # they begin now
        self._writer = writer
        for loop in (self._heartbeat, self._watchdog, self._poll):
            threading.Thread(target=loop, args=(writer,), name=loop.__name__, daemon=True).start()

    def start_consuming(self, **_: object) -> None:
        """Start to measure the time without messages: before, Celery could not receive any."""
        self._last_message = time.monotonic()

    def stop(self, **_: object) -> None:
        """Limit the shutdown: Celery takes no more messages and would wait for running reports without a limit."""
        if not self._stopping.is_set():
            self._stopping.set()
            threading.Thread(target=self._shut_down, name="shut_down", daemon=True).start()

    def report(self, job_id: str) -> None:
        """Write the most urgent waiting reports. The message names a job, but means only that jobs wait.

        Raises JobFailed, which ends the Celery task as FAILURE.
        """
        if self._writer is None:
            raise RuntimeError("no model: the task runs only in a worker")
        self._last_message = time.monotonic()
        with self._jobs.serving():
            if not self._drained(self._writer, job_id):
                # Taken from Redis before the stop and not begun: left to another worker.
                send(self._app, uuid.UUID(job_id))

    def _drained(self, writer: Writer, job_id: str) -> bool:
        """Drain the queue; return False if the worker was stopped before. Waits while the database is unreachable."""
        while not self._stopping.is_set():
            try:
                attempts = self._jobs.drain(writer.write, functools.partial(send, self._app), self._stopping)
            except OperationalError:  # db.session logs an outage
                self._stopping.wait(DATABASE_PAUSE_SECONDS)
            else:
                if not attempts:
                    log.info("queue.empty", job_id=job_id)
                # Stopped while it waited for its turn: the queue may not be empty.
                return attempts > 0 or not self._stopping.is_set()
        return False

    def _shut_down(self) -> None:
        try:
            self._finish_or_give_back()
            # Only Celery is still running: it would wait for an unreachable broker without a limit.
            time.sleep(SHUTDOWN_GRACE_SECONDS)
        finally:
            # A thread cannot be ended, the process can. The fence rejects later writes of the threads, and leases
            # expire if an unreachable database prevents the return of jobs.
            os._exit(0)

    def _finish_or_give_back(self) -> None:
        deadline = time.monotonic() + self._settings.operations.stop_seconds
        while self._jobs.busy and time.monotonic() < deadline:
            time.sleep(STOP_POLL_SECONDS)
        if self._jobs.held():
            log.warning("jobs.given_back", count=self._jobs.give_back())
            os._exit(0)

    def _poll(self, writer: Writer) -> None:
        """Claim jobs that no message announced in time: the queue is in PostgreSQL, the broker only wakes."""
        while not self._stopping.wait(POLL_SECONDS):
            try:
                free = self._jobs.free
                with statements(self._settings.database()) as session:
                    overdue = wakeups.overdue(session, after_seconds=OVERDUE_SECONDS, at_most=free) if free else 0
            except SQLAlchemyError:  # db.session logs an outage
                continue
            for _ in range(overdue):
                threading.Thread(target=self._serve_one, args=(writer,), name="overdue", daemon=True).start()

    def _serve_one(self, writer: Writer) -> None:
        with self._jobs.serving(), contextlib.suppress(OperationalError):
            self._jobs.run_once(writer.write)

    def _heartbeat(self, writer: Writer) -> None:
        while True:
            failed = True
            try:
                if probe(self._app):
                    self._exit_if_consumer_lost()
                self._record(writer)
                failed = False
            except OperationalError:  # db.session logs an outage
                pass
            except Exception as error:  # noqa: BLE001 - a loop's boundary: it must outlive a lost connection
                log.warning("heartbeat.failed", error=type(error).__name__)
            self._loops["heartbeat"].passed(failed=failed)
            if self._stopping.wait(heartbeats.INTERVAL_SECONDS):
                return

    def _record(self, writer: Writer) -> None:
        with transaction(self._settings.database(), durable=False) as session:
            info = writer.info | {"broker_outage": self._app.outage.info}
            heartbeats.record(session, heartbeats.Role.WORKER, info)
            lost_gpus.record(session, heartbeats.name(), info, begins=self._begins)
        self._begins = False

    def _exit_if_consumer_lost(self) -> None:
        """End a process that is connected but consumes no messages (celery issue 10302): only a new one will.

        Its sign are messages that wait at two heartbeats in a row although this process is idle.
        """
        after = max(MISSED_DELIVERIES * self._settings.queue.redeliver_seconds, MIN_SILENCE_SECONDS)
        silence = time.monotonic() - self._last_message
        unread, self._unread = self._unread, False
        if self._jobs.busy or silence < after:
            return
        try:
            self._unread = depth(self._app) > 0
        except BROKER_ERRORS as error:
            self._app.outage.failed(error)
        if self._unread and unread:
            log.critical("consumer.lost", seconds=round(silence))
            os._exit(EXIT_STALLED)

    def _watchdog(self, writer: Writer) -> None:
        """End silent attempts, and the process if the model or an attempt hangs: a thread cannot be ended."""
        limit, lease = self._settings.operations.engine_stall_seconds, self._settings.queue.lease_seconds
        while not self._stopping.wait(min(STALL_POLL_SECONDS, lease * MARGIN / 2)):
            silent, stalled = self._end_silent(), writer.stalled_seconds
            self._loops["watchdog"].passed()
            if stalled > limit:
                log.critical("engine.stalled", seconds=f"{stalled:.0f}", limit=limit)
                self._exit_stalled(writer, limit)
            elif silent > limit + lease:
                log.critical("attempt.hung", seconds=f"{silent:.0f}", limit=limit + lease)
                self._exit_stalled(writer, limit)

    def _end_silent(self) -> float:
        try:
            return self._jobs.end_silent()
        except Exception as error:  # noqa: BLE001 - a loop's boundary: the watchdog must outlive a fault
            log.error("watchdog.failed", error=type(error).__name__, frames=logs.frames(error))  # noqa: TRY400 - its text may hold a patient's data
            return 0.0

    def _exit_stalled(self, writer: Writer, limit: float) -> None:
        """Exit after the jobs are returned: those that hang have used an attempt, the others have not."""
        returning = threading.Thread(target=self._return_jobs, args=(writer, limit), daemon=True)
        returning.start()
        # Not longer: the database may be unreachable, and the leases expire.
        returning.join(RETURN_SECONDS)
        os._exit(EXIT_STALLED)

    def _return_jobs(self, writer: Writer, limit: float) -> None:
        self._jobs.end_silent(limit - STALL_POLL_SECONDS)
        self._jobs.give_back()
        # The last heartbeat: an alarm reads from it why the process ended.
        self._record(writer)
