"""Send canaries (`prelim canary`): phantom studies by C-STORE, with TLS if the listener has it, to their reports.

The study and its files are deleted when it has ended; its row in `canaries` keeps when, and how.
"""

from __future__ import annotations

import datetime as dt
import secrets
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import SQLAlchemyError

from db.errors import ConfigurationError
from db.logs import frames
from db.operations.canaries import canaries
from db.operations.heartbeats import Role
from db.operations.probes import status_socket
from db.operations.probes.status_socket import NEVER, HealthCheck
from db.session import transaction
from db.storage.errors import StorageError
from db.studies.deletion import file_deletions, retention
from db.studies.deletion.file_deletions import BackupRunning
from deploy.launcher import lost_database
from deploy.launcher.processes import accepts_tcp, loopback_address
from dicom_listener import process_signals
from dicom_listener.receive.tls import client_context
from dicom_listener.scu import send
from dicom_listener.scu.send import Node

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from db.settings import Settings

log = structlog.get_logger()

#: Seconds that a listener may need to start, as in deploy.launcher.processes.
START_SECONDS = 180.0
#: Name this AE title in the peers file, if there is one.
AE_TITLE = "PRELIM_CANARY"
#: Seconds between two looks for the report, and after a failure of database or disk.
POLL_SECONDS, PAUSE_SECONDS = 1.0, 10.0
#: Patients of phantoms have smaller numbers.
FIRST_PATIENT, PATIENTS = 10**9, 10**9
#: All moments before are in the past on the database's clock.
AHEAD = dt.timedelta(days=1)
UNREPORTED = "no report in time"


def run(settings: Settings) -> None:
    """Send a canary every PRELIM_CANARY_SECONDS until SIGTERM or SIGINT; with 0, only wait."""
    stop = threading.Event()
    with process_signals.handled(dict.fromkeys(process_signals.STOP, stop.set)):
        status = status_socket.serve(Role.CANARY, settings.operations.data_dir, _checks)
        try:
            _repeat(settings, stop)
        finally:
            status_socket.close(status)


def _checks() -> Iterable[HealthCheck]:
    """Return a check that always passes: a canary takes minutes, and one that is missed has an alarm."""
    return [HealthCheck("no canary was sent", 0, NEVER)]


def _repeat(settings: Settings, stop: threading.Event) -> None:
    interval = settings.operations.canary_seconds
    if interval:
        _await_listener(settings, stop)
    else:
        stop.wait()
    while not stop.is_set():
        try:
            pause = _seconds_until_due(settings, interval)
            if not stop.wait(pause):
                send_one(settings, interval, stop)
        except (SQLAlchemyError, OSError) as error:
            # Without a database the age of the last canary grows by itself.
            log.error("canary.waiting", error=type(error).__name__)  # noqa: TRY400 - an outage, no fault of the program
            stop.wait(PAUSE_SECONDS)
        except Exception as error:  # noqa: BLE001 - boundary of the process: a fault must not end the loop
            log.error("canary.failed", error=type(error).__name__, frames=frames(error))  # noqa: TRY400
            stop.wait(PAUSE_SECONDS)


def _await_listener(settings: Settings, stop: threading.Event) -> None:
    """Return when the listener accepts connections, or after START_SECONDS.

    It may have been started at the same moment: a first canary that is refused would be a problem until the next one.
    """
    until = time.monotonic() + START_SECONDS
    while not accepts_tcp(_host(settings), settings.dicom.dicom_port):
        if stop.wait(POLL_SECONDS) or time.monotonic() > until:
            return


def _host(settings: Settings) -> str:
    return settings.operations.canary_host or loopback_address(settings.dicom.dicom_host)


def _seconds_until_due(settings: Settings, interval: float) -> float:
    """Return the time until the next canary of any process: a process that is restarted often sends none too many."""
    with transaction(settings.database()) as session:
        since = canaries.seconds_since_last(session)
    return 0 if since is None else max(interval - since, 0)


def send_one(settings: Settings, wait_seconds: float, stop: threading.Event | None = None) -> str:
    """Send a canary, wait for its report and delete it; return its problem, empty if it has its report.

    Earlier ones that have ended since are deleted, too. Interrupted by *stop*, it is deleted by the next one.
    """
    stop = stop or threading.Event()
    delete_ended(settings)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        study_instance_uid, files = _write_phantom(Path(folder))
        with transaction(settings.database()) as session:
            canaries.begin(session, study_instance_uid)
        problem = _sent(files, node(settings)) or _reported(settings, study_instance_uid, began + wait_seconds, stop)
    if problem is None:
        return "interrupted"
    with transaction(settings.database()) as session:
        canaries.end(session, study_instance_uid, problem)
    (log.warning if problem else log.info)("canary.ended", problem=problem, seconds=round(time.monotonic() - began, 1))
    delete_ended(settings)
    return problem


def called_ae_title(settings: Settings) -> str:
    """Return the AE title to call: a demo checkpoint reports only on studies sent to one of PRELIM_DEMO_AE_TITLES."""
    return next(iter(settings.model.demo_ae_titles), settings.dicom.ae_title)


def node(settings: Settings) -> Node:
    """Return the address of the listener."""
    return Node(
        host=_host(settings),
        port=settings.dicom.dicom_port,
        called=called_ae_title(settings),
        calling=AE_TITLE,
        tls=client_context(settings) if settings.dicom.tls_certificate else None,
    )


def _write_phantom(folder: Path) -> tuple[str, Sequence[Path]]:
    """Write a small chest radiograph of a new patient; return its Study Instance UID and its files."""
    import numpy as np  # noqa: PLC0415 - of the extra `images`; the other commands need it not

    from worker.phantoms.cases import draw_case  # noqa: PLC0415 - the same
    from worker.phantoms.dicom_files import study_uid, write_study  # noqa: PLC0415 - the same

    patient = FIRST_PATIENT + secrets.randbelow(PATIENTS)
    case = draw_case(np.random.default_rng(secrets.randbits(64)), "chest")
    return study_uid(case, patient), write_study(case, folder, patient=patient, small=True)


def _sent(files: Iterable[Path], receiver: Node) -> str:
    """Send files; return the problem of the first that was not stored, empty if all were."""
    for result in send.send_files(files, receiver):
        if not result.stored:
            status = "" if result.status is None else f"{result.status:04X} "
            return f"not stored: {status}{result.detail}".strip()
    return ""


def _reported(settings: Settings, study_instance_uid: str, deadline: float, stop: threading.Event) -> str | None:
    """Wait for the end of a study; return its problem, empty if it has a report, None if *stop* came first."""
    while not stop.wait(POLL_SECONDS):
        with transaction(settings.database()) as session:
            problem = canaries.result(session, study_instance_uid)
        if problem is not None:
            return problem
        if time.monotonic() > deadline:
            return UNREPORTED
    return None


def delete_ended(settings: Settings) -> None:
    """Delete the studies of canaries that have ended, with their files."""
    limits = retention.Limits(dt.datetime.now(dt.UTC) + AHEAD, without_report=True)
    with transaction(settings.database()) as session:
        uids = canaries.ended_studies(session)
        studies = retention.locked(session, uids, limits) if uids else []
        if studies:
            retention.delete_studies(session, studies)
    if studies:
        try:
            lost_database.require_files(settings)
            file_deletions.delete_files(settings)
        except BackupRunning:
            log.info("canary.files_wait")
        except (ConfigurationError, StorageError) as error:
            log.warning("canary.files_not_deleted", cause=str(error))
