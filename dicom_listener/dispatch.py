"""Index received files, settle complete studies and announce their jobs to the workers (`prelim dispatch`).

The listener does not depend on this process, nor on the database and the broker it uses.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import SQLAlchemyError

from db.answers import rules, unmatched
from db.jobs import celery_app, wakeups, wrong_clock
from db.jobs import rescue as expired_jobs
from db.logs import frames
from db.operations import disk, heartbeats
from db.operations.probes import status_socket
from db.operations.probes.status_socket import NEVER, HealthCheck, Loop
from db.operations.totals import totals
from db.session import limit_statements, statements, transaction
from db.studies import procedure_steps, settling
from dicom_listener import process_signals
from dicom_listener.commitment import deliver
from dicom_listener.indexing import broken_transfers, indexer, unreadable
from dicom_listener.moving import mover
from dicom_listener.receive import status_file
from dicom_listener.receive.peers import PeerDirectory
from dicom_listener.recovery import row_recovery
from dicom_listener.spool import file_system, slots
from dicom_listener.spool.associations import SpoolMarks
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import WaitingFiles

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Collection, Iterable, Sequence

    from sqlalchemy.orm import Session

    from db.settings import Settings
    from dicom_listener.spool.associations import Transfer

log = structlog.get_logger()

#: Database connections: the loop, and threads that deliver commitment results.
CONNECTIONS = 10
#: Seconds between two looks for slots of ended processes, and between two attempts while database or disk fail.
RECOVERY_SECONDS, PAUSE_AFTER_FAILURE_SECONDS = 5, 2
#: Seconds without a pass up to which this process is ready, and live; over the spool, a large file can take minutes.
READY_SECONDS, LIVE_SECONDS, SPOOL_LIVE_SECONDS = 25.0, 90.0, 900.0


def run_once(settings: Settings, app: celery_app.App, waiting: WaitingFiles | None = None) -> int:
    """Run each step once; returns the number of files, studies and jobs moved.

    Raises SQLAlchemyError if the database cannot be reached, OSError if the spool fails. An unreachable broker is only
    logged: the jobs are durable, and their messages are sent later.
    """
    moved = settle_and_index(settings, WaitingFiles(Spool(settings.spool)) if waiting is None else waiting)
    return moved + rescue(settings) + announce(settings, app)


def settle_and_index(settings: Settings, waiting: WaitingFiles) -> int:
    """Settle the studies without waiting files, then index the next files; returns the number of both."""
    moved = 0
    if waiting.is_due:
        # Before the inboxes are listed: they then contain the last objects of every association that has ended.
        marks = SpoolMarks(Spool(settings.spool))
        transferring, broken = marks.open(), marks.broken()
        unread = unreadable.of_spool(settings.spool)
        waiting.refresh(unread.resting(), unread.set_aside())
        studies, unlisted = waiting.studies, bool(waiting.unlisted)
        if waiting.has_unknown:
            # Of any study. They go first, and at once: new ones at every listing would delay all settling.
            moved = indexer.run_once(settings, waiting)
        # A study must not settle while files of it wait, however many others do.
        if not waiting.has_unknown:
            moved += _settle_without_files(settings, transferring, broken, studies, unlisted=unlisted)
    return moved + indexer.run_once(settings, waiting)


def _settle_without_files(
    settings: Settings,
    transferring: Sequence[Transfer],
    broken: Sequence[Transfer],
    waiting: Collection[str],
    *,
    unlisted: bool,
) -> int:
    quiet = settings.study.settle_seconds
    stalled = [transfer for transfer in transferring if transfer.receiving and transfer.silent_seconds >= quiet]
    possible = () if unlisted else broken
    indexed = [transfer for transfer in possible if settling.study_key(transfer.study_instance_uid) not in waiting]
    broken_transfers.record(settings, (*indexed, *stalled))
    for transfer in indexed:
        SpoolMarks(Spool(settings.spool)).forget(transfer.association_id)
    sending = [transfer for transfer in transferring if transfer not in stalled]
    return settle(settings, sending, waiting, unlisted=unlisted)


def settle(
    settings: Settings,
    transferring: Collection[Transfer] = (),
    waiting: Collection[str] = (),
    *,
    unlisted: bool = False,
) -> int:
    """Settle studies that are quiet, ended by MPPS or at the cap; returns the number of new jobs.

    *waiting* has the keys of the studies with files in the inbox, which do not settle; *unlisted*: others may, too.
    """
    by_silence = sorted(transferring, key=lambda transfer: transfer.silent_seconds, reverse=True)
    sending = {transfer.study_instance_uid: transfer.silent_seconds for transfer in by_silence}
    active = {uid for uid, silent in sending.items() if silent < settings.study.settle_seconds}
    ended = 0
    try:
        if settings.dicom.mpps:
            settle_ended = partial(procedure_steps.settle_ended, sending=active, waiting=waiting, unlisted=unlisted)
            ended = _settle(settings, settle_ended)
    finally:  # whatever the steps of one modality do to that query
        settle_due = partial(settling.settle_due, limits=settings.study, sending=sending)
        due = _settle(settings, partial(settle_due, waiting=waiting, unlisted=unlisted))
    return ended + due


def _settle(settings: Settings, settle_some: Callable[[Session], list[uuid.UUID]]) -> int:
    """Settle in one transaction, apply the rules to the new jobs and return their number."""
    tasks = rules.load(settings.study.rules)
    with transaction(settings.database()) as session:
        made = settle_some(session)
        queued = rules.apply(session, made, tasks)
    for job_id in queued:
        log.info("job.queued", job_id=str(job_id))
    return len(made)


def rescue(settings: Settings) -> int:
    """Queue the jobs of dead workers again; returns their number."""
    if rescued := expired_jobs.rescue(settings.database(), max_attempts=settings.queue.max_attempts):
        log.warning("jobs.rescued", jobs=rescued)
    return rescued


def announce(settings: Settings, app: celery_app.App) -> int:
    """Send wake-up messages for waiting jobs, again if Redis has lost them; returns the number sent."""
    with statements(settings.database()) as session:
        if not wakeups.has_unannounced(session) or app.outage.resting:
            return 0
    try:
        in_queue = celery_app.depth(app)
    except celery_app.BROKER_ERRORS as error:
        app.outage.failed(error)
        return 0
    with statements(settings.database()) as session:
        jobs_to_send = wakeups.take(session, in_queue=in_queue, lost_after_seconds=settings.queue.redeliver_seconds)
    return _send(settings, app, jobs_to_send)


def _send(settings: Settings, app: celery_app.App, job_ids: Sequence[uuid.UUID]) -> int:
    for number, job_id in enumerate(job_ids):
        if not celery_app.send(app, job_id):
            with transaction(settings.database()) as session:
                wakeups.mark_unannounced(session, job_ids[number:])
            return number
    return len(job_ids)


def run(settings: Settings) -> None:
    """Run the dispatcher until SIGTERM or SIGINT; raises ConfigurationError: rules, peers file, spool or database."""
    limit_statements(settings, connections=CONNECTIONS)
    peers = PeerDirectory(settings.dicom.peers_file)
    rules.load(settings.study.rules)
    stop = threading.Event()
    with process_signals.handled(dict.fromkeys(process_signals.STOP, stop.set)):
        _run(settings, peers, stop)


def _run(settings: Settings, peers: PeerDirectory, stop: threading.Event) -> None:
    spool = Spool(settings.spool)
    spool.prepare()
    file_system.require(spool)
    waiting = WaitingFiles(spool)
    upkeep = QueueUpkeep(settings, celery_app.make_app(settings.broker()), waiting, stop)
    recovery = row_recovery.RowRecovery(settings, stop)

    def settle_or_wait() -> None:
        if not settle_and_index(settings, waiting):
            stop.wait(settings.queue.dispatch_seconds)

    def recover_slots() -> None:
        slots.recover_abandoned(spool)
        stop.wait(RECOVERY_SECONDS)

    files, queue = Loop("the pass over the spool"), Loop("the pass over the queue")
    threads = [
        threading.Thread(target=deliver.run, args=(settings, peers, stop), name="commitment"),
        threading.Thread(target=mover.run, args=(settings, stop), name="mover"),
        threading.Thread(target=_repeat, args=(upkeep.run_once, stop, queue), name="upkeep"),
        threading.Thread(target=_repeat, args=(recover_slots, stop), name="slots"),
        threading.Thread(target=_repeat, args=(recovery.run_once, stop), name="failover"),
        threading.Thread(target=_repeat, args=(partial(totals.run_once, settings, stop), stop), name="totals"),
        threading.Thread(target=_repeat, args=(partial(unmatched.run_once, settings, stop), stop), name="unmatched"),
    ]
    checks = partial(_checks, settings, files, queue)
    status = status_socket.serve(heartbeats.Role.DISPATCHER, settings.operations.data_dir, checks)
    for thread in threads:
        thread.start()
    try:
        _repeat(settle_or_wait, stop, files)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        upkeep.close()
        status_socket.close(status)
    recovery.require_database()


def _checks(settings: Settings, files: Loop, queue: Loop) -> Iterable[HealthCheck]:
    yield HealthCheck(f"{settings.spool} cannot be written", 0 if os.access(settings.spool, os.W_OK) else NEVER, 0)
    yield from files.checks(READY_SECONDS, SPOOL_LIVE_SECONDS)
    yield from queue.checks(READY_SECONDS, LIVE_SECONDS)


class QueueUpkeep:
    """Heartbeat, rescue and announcements, which do not wait for a batch of files; in a thread of its own."""

    def __init__(self, settings: Settings, app: celery_app.App, waiting: WaitingFiles, stop: threading.Event) -> None:
        self._settings = settings
        self._app = app
        self._waiting = waiting
        self._stop = stop
        self._job_listener = wakeups.JobListener(settings.database())
        self._heartbeat_due = 0.0

    def run_once(self) -> None:
        """Write a heartbeat that is due, rescue, announce; wait for the next queued job if there was nothing to do."""
        try:
            if time.monotonic() >= self._heartbeat_due:
                _write_heartbeat(self._settings, self._app, self._waiting.oldest_at)
                self._heartbeat_due = time.monotonic() + heartbeats.INTERVAL_SECONDS
                wrong_clock.date_to_now(self._settings.database(), self._settings.queue.lease_seconds)
            moved = rescue(self._settings) + announce(self._settings, self._app)
            if not moved and self._job_listener.wait(self._settings.queue.dispatch_seconds, self._stop):
                announce(self._settings, self._app)
        except SQLAlchemyError:
            # The connection may lead to a server that was demoted.
            self.close()
            raise

    def close(self) -> None:
        """Close the connection that listens for queued jobs."""
        self._job_listener.close()


def _repeat(step: Callable[[], None], stop: threading.Event, loop: Loop | None = None) -> None:
    """Run *step* again and again until *stop* is set; its failures are logged, and it is run again after a pause."""
    failure = ""
    while not stop.is_set():
        failed = True
        try:
            step()
            failed, failure = False, ""
        except (SQLAlchemyError, OSError) as error:
            # Files wait in the spool and jobs in the database: nothing is lost. Logged once for each cause.
            if failure != type(error).__name__:
                failure = type(error).__name__
                log.error("dispatch.waiting", error=failure)  # noqa: TRY400 - an outage, no fault of the program
            stop.wait(PAUSE_AFTER_FAILURE_SECONDS)
        # The boundary of the process: a fault must not end the loop. The text could quote a patient.
        except Exception as error:  # noqa: BLE001
            log.error("dispatch.failed", error=type(error).__name__, frames=frames(error))  # noqa: TRY400
            stop.wait(PAUSE_AFTER_FAILURE_SECONDS)
        if loop is not None:
            loop.passed(failed=failed)


def _write_heartbeat(settings: Settings, app: celery_app.App, oldest_at: float | None) -> None:
    """Record the heartbeats of dispatcher and listeners; *oldest_at* is when the oldest waiting file was received."""
    if app.outage.on and not app.outage.resting:
        celery_app.probe(app)
    listeners = status_file.read_all(Spool(settings.spool))
    measured = disk.measure_existing(settings.spool)
    own = {
        "disk": None if measured is None else asdict(measured),
        "unreadable": unreadable.of_spool(settings.spool).info(),
        "oldest_waiting_seconds": None if oldest_at is None else max(time.time() - oldest_at, 0),
        "broker_outage": app.outage.info,
    }
    with transaction(settings.database(), durable=False) as session:
        heartbeats.record(session, heartbeats.Role.DISPATCHER, own)
        for listener in listeners:
            heartbeats.record(session, heartbeats.Role.LISTENER, listener, process=listener.pop("process"))
        heartbeats.forget_dead(session)
