"""Claim -> report -> finish: the one task, and the one place where an outcome becomes a state."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import structlog
from celery.signals import setup_logging, worker_init, worker_shutting_down
from sqlalchemy import select

from db import jobs, logs, processes, reports, studies
from db.errors import ConfigurationError, NotReportable, PermanentFailure, StaleFence, TransientFailure
from db.jobqueue import REPORT_TASK, make_app
from db.models import Instance, Study
from db.reference import fingerprint
from db.session import transaction
from db.settings import load_settings
from worker.images.study import StoredInstance
from worker.reporter import StudyToReport
from worker.resident import Resident

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from db.reports import Draft
    from db.settings import Settings

#: How often the engine's progress is looked at, in seconds.
STALL_LOOK_SECONDS = 1.0
#: EX_SOFTWARE of sysexits.h: whoever supervises the worker starts it again.
EXIT_STALLED = 70

log = structlog.get_logger()
settings = load_settings()
app = make_app(settings.broker())
#: Set once, by worker_init: the threads pool never sends worker_process_init.
resident: Resident | None = None
stopping = threading.Event()


@setup_logging.connect
def _configure_logs(**_: object) -> None:
    logs.configure(settings)


@worker_init.connect
def _load(**_: object) -> None:
    """Load the model before the first message is taken; a bad checkpoint ends the process with one clear line."""
    global resident  # noqa: PLW0603 - a model is resident in its process
    try:
        resident = Resident.load(settings)
    except ConfigurationError as error:
        # Celery logs and swallows exceptions of signal handlers; SystemExit it lets through.
        log.error("worker_cannot_start", problem=str(error))  # noqa: TRY400 - expected, no traceback
        raise SystemExit(2) from None
    for loop in (_beat, _watch):
        threading.Thread(target=loop, args=(resident,), name=loop.__name__, daemon=True).start()


@worker_shutting_down.connect
def _stop_beating(**_: object) -> None:
    stopping.set()


def _beat(resident: Resident) -> None:
    while True:
        try:
            with transaction() as session:
                processes.beat(session, "worker", resident.info)
        except Exception:
            log.warning("beat_failed", exc_info=True)
        if stopping.wait(processes.BEAT_SECONDS):
            return


def _watch(resident: Resident) -> None:
    """End the process when the model hangs: threads of a hung GPU cannot be ended, and the leases return the jobs."""
    while not stopping.wait(STALL_LOOK_SECONDS):
        stalled = resident.stalled_seconds
        if stalled > settings.engine_stall_seconds:
            log.critical("engine_stalled", seconds=round(stalled), limit=settings.engine_stall_seconds)
            os._exit(EXIT_STALLED)


@app.task(name=REPORT_TASK)  # type: ignore[untyped-decorator] # celery ships no types
def report(job_id: str) -> None:
    """Write the most urgent waiting report. The message names a job, but only says that there is work."""
    if resident is None:
        raise RuntimeError("no model: the task runs only in a worker")
    if run(settings, resident.write) is None:
        log.info("nothing_waits", job_id=job_id)


def run(settings: Settings, write: Callable[[StudyToReport, Callable[[], None]], Draft]) -> str | None:
    """Claim a job, write its report and store what became of it; returns the outcome, or None where none waited.

    *write* makes the draft and calls what it is given whenever the work has moved on.
    """
    with transaction() as session:
        claim = jobs.claim_next(session, owner=processes.name(), lease_seconds=settings.lease_seconds)
        if claim is None:
            return None
        study = _study(session, claim, settings)
    outcome = _attempt(claim, settings, lambda: write(study, Lease(claim, settings).extend))
    log.info("job_done", job_id=str(claim.job_id), fence=claim.fence, attempt=claim.attempt, outcome=outcome)
    return outcome


class Lease:
    """Extends a claim's lease as the work moves on, not more often than needed."""

    def __init__(self, claim: jobs.Claim, settings: Settings) -> None:
        self._claim = claim
        self._seconds = settings.lease_seconds
        self._extended = time.monotonic()

    def extend(self) -> None:
        """Extend when a third of the lease is used; raises StaleFence where the job was taken away."""
        if time.monotonic() - self._extended < self._seconds / 3:
            return
        with transaction() as session:
            jobs.heartbeat(session, self._claim, lease_seconds=self._seconds)
        self._extended = time.monotonic()


def _attempt(claim: jobs.Claim, settings: Settings, write: Callable[[], Draft]) -> str:
    """Outcome -> state. Every way a run can end has its line here."""
    job_id = str(claim.job_id)
    try:
        try:
            draft = write()
            with transaction() as session:
                jobs.finish(session, claim)
                reports.save(session, claim, draft)
        except NotReportable as outcome:
            with transaction() as session:
                jobs.not_reportable(session, claim, outcome.reason, outcome.detail)
            return "not_reportable"
        except PermanentFailure as outcome:
            with transaction() as session:
                jobs.fail(session, claim, outcome.reason, outcome.detail)
            return "failed"
        except TransientFailure as outcome:
            _again(claim, settings, outcome.reason, outcome.detail)
            return "retry"
        except StaleFence:
            raise
        except Exception as error:  # a process boundary: an unknown fault must not take the worker down
            log.exception("report_failed", job_id=job_id)
            # The type alone: an exception's text may quote a header, and with it a patient.
            _again(claim, settings, "unexpected", f"{type(error).__name__}; the worker's log has the traceback")
            return "retry"
    except StaleFence:
        log.info("result_dropped", job_id=job_id, fence=claim.fence)
        return "stale"
    return "finished"


def _again(claim: jobs.Claim, settings: Settings, reason: str, detail: str) -> None:
    with transaction() as session:
        jobs.retry_later(
            session,
            claim,
            reason,
            detail,
            pause_seconds=settings.retry_seconds,
            maximum_attempts=settings.maximum_attempts,
        )


def _study(session: Session, claim: jobs.Claim, settings: Settings) -> StudyToReport:
    study = session.get_one(Study, claim.study_id)
    rows = session.scalars(
        select(Instance).where(Instance.study_id == claim.study_id, Instance.reportable).order_by(Instance.file_path)
    )
    return StudyToReport(
        instances=[
            StoredInstance(path=settings.data_dir / row.file_path, sop_instance_uid=row.sop_instance_uid)
            for row in rows
        ],
        modality=study.modality,
        body_part=study.body_part,
        patient_hash=fingerprint(study.patient_id),
        study_hash=fingerprint(study.study_instance_uid),
        late_arrivals=studies.late_arrivals(session, claim.study_id, claim.revision),
    )
