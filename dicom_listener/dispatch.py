"""`prelim dispatch`: rows from files, studies judged complete, their jobs announced to the workers.

The listener never waits for this process, nor for the database and the broker that it talks to.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import SQLAlchemyError

from db.jobs import celery_app, claims, wakeups
from db.logs import frames
from db.operations import heartbeats
from db.session import transaction
from db.studies import commitments, settling
from dicom_listener.commitment import deliver
from dicom_listener.indexing import indexer
from dicom_listener.receive import counters
from dicom_listener.receive.peers import PeerDirectory
from dicom_listener.spool.durable import Spool

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Sequence

    from celery import Celery

    from db.settings import Settings

log = structlog.get_logger()

#: Seconds to wait when the database or the disk does not answer.
PAUSE_AFTER_FAILURE_SECONDS = 2
#: Kinds of refusals shown to operators.
MOST_SHOWN = 20


def run_once(settings: Settings, app: Celery) -> int:
    """Take each step once; returns how many files, studies and jobs were moved.

    Raises SQLAlchemyError where the database cannot be reached. A broker that cannot be reached is only logged: the
    jobs are safe, and their messages are sent later.
    """
    # Looked at before the inbox: the last objects of an association that is gone by now are in the inbox.
    open_associations = Spool(settings.spool).open_associations()
    indexed = indexer.run_once(settings)
    # A study must not settle while files of it still wait for their rows.
    settled = settle(settings, open_associations) if indexed < indexer.BATCH else 0
    return indexed + settled + rescue(settings) + announce(settings, app)


def settle(settings: Settings, open_associations: Collection[str]) -> int:
    """Judge complete what is quiet or too long in coming; returns how many jobs that made."""
    with transaction(settings.database()) as session:
        ended = commitments.settle_ended_steps(session, open_associations) if settings.dicom.mpps else []
        made = settling.settle_due(
            session,
            quiet_seconds=settings.study.settle_seconds,
            quiet_rules=settings.study.settle_rules,
            cap_seconds=settings.study.settle_cap_seconds,
            max_revisions=settings.study.max_revisions,
            open_associations=open_associations,
        )
    for job_id in (*ended, *made):
        log.info("job.queued", job=str(job_id))
    return len(ended) + len(made)


def rescue(settings: Settings) -> int:
    """Queue again what dead workers held; returns how many jobs."""
    with transaction(settings.database()) as session:
        rescued = claims.rescue(session, max_attempts=settings.queue.max_attempts)
    if rescued:
        log.warning("jobs.rescued", jobs=rescued)
    return rescued


def announce(settings: Settings, app: Celery) -> int:
    """Tell the workers of the jobs that wait, again where Redis has lost the message; returns of how many."""
    with transaction(settings.database()) as session:
        if not wakeups.any_to_tell(session):
            return 0
    try:
        in_queue = celery_app.depth(app)
    except celery_app.BROKER_ERRORS as error:
        log.warning("broker.unreachable", why=type(error).__name__)
        return 0
    # What a crash of Postgres makes unsent is sent again.
    with transaction(settings.database(), durable=False) as session:
        jobs_to_send = wakeups.take(session, in_queue=in_queue, lost_after_seconds=settings.queue.redeliver_seconds)
    return _send(settings, app, jobs_to_send)


def _send(settings: Settings, app: Celery, job_ids: Sequence[uuid.UUID]) -> int:
    for number, job_id in enumerate(job_ids):
        if not celery_app.send(app, job_id):
            with transaction(settings.database()) as session:
                wakeups.not_sent(session, job_ids[number:])
            return number
    return len(job_ids)


def run(settings: Settings) -> None:
    """Dispatch until SIGTERM or SIGINT; raises ConfigurationError where the peers file cannot be read."""
    peers = PeerDirectory(settings.dicom.peers_file)
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    Spool(settings.spool).prepare()
    app = celery_app.make_app(settings.broker())
    committing = threading.Thread(target=deliver.run, args=(settings, peers, stop), name="commitment")
    committing.start()
    try:
        with contextlib.closing(wakeups.Bell(settings.database())) as bell:
            _loop(settings, app, bell, stop)
    finally:
        stop.set()
        committing.join()


def _loop(settings: Settings, app: Celery, bell: wakeups.Bell, stop: threading.Event) -> None:
    beat_due = 0.0
    while not stop.is_set():
        try:
            if time.monotonic() >= beat_due:
                _beat(settings)
                beat_due = time.monotonic() + heartbeats.BEAT_SECONDS
            if not run_once(settings, app) and bell.rings_within(settings.queue.dispatch_seconds, stop):
                announce(settings, app)
        except (SQLAlchemyError, OSError) as error:
            # The files wait on the disk and the jobs in the database: nothing is lost but time.
            log.error("dispatch.waiting", why=type(error).__name__)  # noqa: TRY400 - an outage, not a fault of ours
            stop.wait(PAUSE_AFTER_FAILURE_SECONDS)
        # A fault of ours must not end the loop for good. Its text could quote a patient.
        except Exception as error:  # noqa: BLE001
            log.error("dispatch.failed", error=type(error).__name__, frames=frames(error))  # noqa: TRY400
            stop.wait(PAUSE_AFTER_FAILURE_SECONDS)


def _beat(settings: Settings) -> None:
    refused = counters.read(Spool(settings.spool).refusals)[:MOST_SHOWN]
    with transaction(settings.database(), durable=False) as session:
        heartbeats.beat(session, heartbeats.Role.DISPATCHER, {"refused": refused})
