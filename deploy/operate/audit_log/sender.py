"""Send the audit log to the audit record repository (`prelim audit-log send`): every row at least once, in order.

The rows wait in the database. A batch counts as sent when the repository has read it (see `syslog_tls`), and only then
the place in the log moves on; after a failure, a kill or a failover the same rows are sent again.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
import structlog
from sqlalchemy.exc import SQLAlchemyError

from db.access import audit_queue
from db.access.audit_queue import Turn
from db.errors import ConfigurationError
from db.logs import frames
from db.operations.heartbeats import Role
from db.operations.probes import status_socket
from db.operations.probes.status_socket import NEVER, HealthCheck
from db.session import limit_statements, transaction
from deploy.operate.audit_log import dicom_message, syslog_tls
from deploy.operate.audit_log.records import of_rows
from dicom_listener import process_signals

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from db.models import AuditRow
    from db.settings import Settings

log = structlog.get_logger()

#: Rows of a batch: at first and after a failure few, so that a slow repository takes them in time.
FIRST_ROWS, MAX_ROWS = 100, 1000
#: Seconds between two looks for rows: each batch is a connection.
POLL_SECONDS = 2.0
#: Seconds between two attempts after the first failure, doubled up to the second figure; and without the turn.
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, OTHER_SENDS_SECONDS = 1.0, 60.0, 5.0
#: Seconds between two looks at all chains, also those that were complete.
ALL_CHAINS_SECONDS = 3600.0
#: Database connections: the turn and one for reading.
CONNECTIONS = 2


def run(settings: Settings) -> None:
    """Send until SIGTERM or SIGINT; raises ConfigurationError for the address and the files of the repository."""
    _require_files(settings)
    limit_statements(settings, connections=CONNECTIONS)
    stop = threading.Event()
    with process_signals.handled(dict.fromkeys(process_signals.STOP, stop.set)):
        status = status_socket.serve(Role.AUDIT_SENDER, settings.operations.data_dir, _checks)
        sender = Sender(settings)
        try:
            while not stop.is_set():
                stop.wait(sender.run_once())
        finally:
            sender.close()
            status_socket.close(status)


def _require_files(settings: Settings) -> None:
    """Raise ConfigurationError if TLS is impossible; the rows wait from then on, so that an alarm follows."""
    repository = syslog_tls.repository(settings)
    try:
        repository.context()
    except ConfigurationError:
        # The processes that raise alarms may not have the address.
        with suppress(SQLAlchemyError), transaction(settings.database()) as session:
            audit_queue.begin(session)
        raise


def switch_off(settings: Settings) -> None:
    """Record that the log is no longer sent: no row counts as waiting, until a sender runs."""
    with transaction(settings.database()) as session:
        audit_queue.end(session)


def _checks() -> Iterable[HealthCheck]:
    """Return a check that always passes: rows that wait have an alarm, and no restart brings a repository back."""
    return [HealthCheck("no row was sent", 0, NEVER)]


class Sender:
    """Sender of one process; `run_once` sends a batch if it is this process's turn."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._repository = syslog_tls.repository(settings)
        self._turn: Turn | None = None
        self._rows = FIRST_ROWS
        self._failures = 0
        self._all_chains_due = 0.0

    def run_once(self) -> float:
        """Send the next rows; return the seconds until the next call. Failures are logged, once for each outage."""
        try:
            pause = self._send_next()
        except (SQLAlchemyError, psycopg.Error) as error:
            # The turn may have ended with the session: what was sent since does not count.
            self.close()
            return self._failed(f"the database is unavailable ({type(error).__name__})")
        except (OSError, ConfigurationError) as error:
            return self._failed(syslog_tls.cause(error))
        except Exception as error:  # noqa: BLE001 - boundary of the process: a fault must not end the loop
            log.error("audit_syslog.failed", error=type(error).__name__, frames=frames(error))  # noqa: TRY400
            return self._failed(f"a fault of the sender ({type(error).__name__}); its log has the place")
        if self._failures:
            log.info("audit_syslog.resumed", failures=self._failures)
            self._failures = 0
        return pause

    def close(self) -> None:
        """Give the turn up."""
        if self._turn is not None:
            self._turn.close()
            self._turn = None

    def _send_next(self) -> float:
        url = self._settings.database()
        if self._turn is None:
            self._turn = Turn(url)
        if not self._turn.take():
            return OTHER_SENDS_SECONDS
        with transaction(url) as session:
            audit_queue.begin(session)
            if time.monotonic() >= self._all_chains_due:
                audit_queue.forward(session)
                self._all_chains_due = time.monotonic() + ALL_CHAINS_SECONDS
        with transaction(url) as session:
            rows = audit_queue.next_rows(session, self._rows)
            messages = [each for record in of_rows(session, rows) for each in dicom_message.bounded(record)]
        if not rows:
            return POLL_SECONDS
        self._repository.send(syslog_tls.frame(dicom_message.message(each), each.at) for each in messages)
        self._turn.advance(audit_queue.last_of_each(rows))
        return self._sent(rows)

    def _sent(self, rows: Sequence[AuditRow]) -> float:
        full = len(rows) == self._rows
        self._rows = min(self._rows * 2, MAX_ROWS)
        return 0.0 if full else POLL_SECONDS

    def _failed(self, problem: str) -> float:
        """Note a failure; return the pause. The next batch is smaller: the repository may take only so much."""
        if not self._failures:
            log.warning("audit_syslog.waiting", problem=problem)
        self._failures += 1
        self._rows = max(self._rows // 4, 1)
        try:
            if self._turn is not None:
                self._turn.note_problem(problem)
        except psycopg.Error:
            self.close()
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures - 1, 10), MAX_PAUSE_SECONDS)
        # Jitter: several installations have one repository.
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
