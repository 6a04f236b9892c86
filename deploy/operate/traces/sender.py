"""Send the traces of ended jobs to a collector (`prelim send-traces`): each at least once, in the order of their ends.

Nothing waits for it: the jobs are read from the database after their end. The place in the queue moves on after the
collector has accepted a batch; after a failure, a kill or a failover the same spans are sent again, with the same ids.
"""

from __future__ import annotations

import random
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import SQLAlchemyError

from db.jobs import trace_queue
from db.logs import frames
from db.operations import heartbeats
from db.operations.heartbeats import Role
from db.operations.probes import status_socket
from db.operations.probes.status_socket import NEVER, HealthCheck
from db.session import limit_statements, transaction
from deploy.operate.traces import exporter
from deploy.operate.traces.exporter import NotSent
from deploy.operate.traces.spans import of_job
from dicom_listener import process_signals

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from db.jobs.trace_queue import EndedJob
    from db.settings import Settings
    from deploy.operate.traces.collector import Collector

log = structlog.get_logger()

#: Jobs of a batch, about ten spans each: after a failure fewer, so that a slow collector takes them in time.
MAX_JOBS = 200
#: Seconds between two looks for ended jobs, and two attempts to take the turn of another process.
POLL_SECONDS = 5.0
#: Seconds until the second attempt after a failure, doubled up to the second figure.
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 60.0


def run(settings: Settings) -> None:
    """Send until SIGTERM or SIGINT; raises ConfigurationError as `open_collector` does."""
    collector = exporter.open_collector(settings)
    limit_statements(settings, connections=1)
    stop = threading.Event()

    def end() -> None:
        stop.set()
        collector.close()

    with process_signals.handled(dict.fromkeys(process_signals.STOP, end)):
        status = status_socket.serve(Role.TRACE_SENDER, settings.operations.data_dir, _checks)
        sender = Sender(settings, collector)
        try:
            while not stop.is_set():
                stop.wait(sender.run_once())
        finally:
            sender.close()
            status_socket.close(status)


def switch_off(settings: Settings) -> None:
    """Record that no traces are sent: no job waits, until a sender starts."""
    with transaction(settings.database()) as session:
        trace_queue.end(session)


def _checks() -> Iterable[HealthCheck]:
    """Return a check that always passes: no restart brings a collector back."""
    return [HealthCheck("no trace was sent", 0, NEVER)]


class Sender:
    """Sender of one process; `run_once` sends a batch if it is this process's turn."""

    def __init__(self, settings: Settings, collector: Collector) -> None:
        self._url = settings.database
        self._collector = collector
        self._name = heartbeats.name()
        self._begun = False
        self._jobs = MAX_JOBS
        self._failures = 0

    def run_once(self) -> float:
        """Send the next jobs; return the seconds until the next call. Failures are logged, once for each outage."""
        try:
            pause = self._send_next()
        except SQLAlchemyError as error:
            return self._failed(f"the database is unavailable ({type(error).__name__})")
        except NotSent as error:
            return self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - boundary of the process: a fault must not end the loop
            log.error("traces.failed", error=type(error).__name__, frames=frames(error))  # noqa: TRY400
            return self._failed(f"a fault of the sender ({type(error).__name__}); its log has the place")
        if self._failures:
            log.info("traces.resumed", failures=self._failures)
            self._failures = 0
        return pause

    def close(self) -> None:
        """Give the turn up, if the database can be reached; otherwise another process has to wait for its end."""
        with suppress(SQLAlchemyError), transaction(self._url()) as session:
            trace_queue.release(session, self._name)

    def _send_next(self) -> float:
        jobs = self._next_jobs()
        if not jobs:
            return POLL_SECONDS
        # No transaction is open meanwhile.
        rejected = self._collector.send([span for job in jobs for span in of_job(job)])
        if rejected:
            log.warning("traces.rejected", spans=rejected)
        with transaction(self._url()) as session:
            trace_queue.advance(session, self._name, jobs, rejected=rejected)
        full = len(jobs) == self._jobs
        self._jobs = min(self._jobs * 2, MAX_JOBS)
        return 0.0 if full else POLL_SECONDS

    def _next_jobs(self) -> Sequence[EndedJob]:
        """Return the next jobs; none if it is another process's turn."""
        with transaction(self._url()) as session:
            if not self._begun:
                trace_queue.begin(session)
            place = trace_queue.take(session, self._name)
            jobs = [] if place is None else trace_queue.next_jobs(session, place, self._jobs)
        self._begun = True
        return jobs

    def _failed(self, problem: str) -> float:
        """Note a failure; return the pause."""
        if not self._failures:
            log.warning("traces.waiting", problem=problem)
        self._failures += 1
        self._jobs = max(self._jobs // 4, 1)
        with suppress(SQLAlchemyError), transaction(self._url()) as session:
            trace_queue.note_problem(session, self._name, problem)
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures - 1, 10), MAX_PAUSE_SECONDS)
        # Jitter: several installations have one collector.
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
