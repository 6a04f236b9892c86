"""Claim -> report -> finish, and the one place where an outcome becomes a state."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from db.errors import NotReportable, PermanentFailure, StaleFence, TransientFailure
from db.jobs import claims, wakeups
from db.logs import frames
from db.operations import heartbeats
from db.reference import fingerprint
from db.reports import versions
from db.session import statements, transaction
from db.studies import lifecycle
from worker.images.study import StoredInstance
from worker.pipeline import StudyToReport

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from sqlalchemy.orm import Session

    from db.reports.versions import Draft
    from db.settings import Settings

    Write = Callable[[StudyToReport, Callable[[], None]], Draft]

log = structlog.get_logger()

#: Seconds in which a message is good for any number of reports. A real report takes longer, and has a task of its own
#: for Flower to show; a worker that no longer hears runs out of work, which is how it is found out.
TURN_SECONDS = 1.0
#: Between two looks whether the database is back, in seconds.
DATABASE_PAUSE_SECONDS = 1.0


class Slots:
    """The reports one process is writing: takes them one claim at a time, and can give them all back."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = settings.database()
        # See jobs.claim_next: the claims of one owner must not overlap where they may take a suspect.
        self._suspects = threading.Lock()
        self._held: set[claims.Claim] = set()
        self._busy: set[int] = set()

    def answer(self, write: Write, nudge: Callable[[uuid.UUID], bool], stopping: threading.Event) -> int:
        """Answer a message that there is work: write reports while any wait; returns how many.

        When its turn is over, the rest is left to the next message, which is sent first by *nudge*: there is always one
        for a slot to hear, whatever became of the others. Where the broker does not take it, the turn goes on.
        """
        turn_ends = time.monotonic() + TURN_SECONDS
        written = 0
        while self.run(write) is not None:
            written += 1
            over = stopping.is_set() or time.monotonic() > turn_ends
            if over and (self._left_to_others(nudge) or stopping.is_set()):
                break
        return written

    def _left_to_others(self, nudge: Callable[[uuid.UUID], bool]) -> bool:
        with statements(self._url) as session:
            waiting = wakeups.next_waiting(session)
        return waiting is None or nudge(waiting)

    def run(self, write: Write) -> str | None:
        """Claim a job, write its report and store what became of it; returns the outcome, None where none waited.

        *write* makes the draft and calls what it is given whenever the work has moved on.
        """
        claim = self._claim()
        if claim is None:
            return None
        try:
            attempt = Attempt(claim, self._settings)
            outcome = attempt.end_with(lambda: write(_study(claim, self._settings), attempt.moved_on))
        finally:
            self._held.discard(claim)
        log.info("job_done", job_id=str(claim.job_id), fence=claim.fence, attempt=claim.attempt, outcome=outcome)
        return outcome

    def _claim(self) -> claims.Claim | None:
        """Claim beside the others where one of them may take a suspect; where that finds nothing, after them."""
        if not self._suspects.acquire(blocking=False):
            claim = self._claim_next(suspects=False)
            if claim is not None:
                return claim
            self._suspects.acquire()
        try:
            return self._claim_next(suspects=True)
        finally:
            self._suspects.release()

    def _claim_next(self, *, suspects: bool) -> claims.Claim | None:
        lease = self._settings.lease_seconds
        with statements(self._url) as session:
            claim = claims.claim_next(session, owner=heartbeats.name(), lease_seconds=lease, suspects=suspects)
        if claim is not None:
            self._held.add(claim)
        return claim

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """This thread answers a message; a stop waits for it although it holds nothing yet: it may be claiming."""
        self._busy.add(threading.get_ident())
        try:
            yield
        finally:
            self._busy.discard(threading.get_ident())

    @property
    def busy(self) -> bool:
        """Whether any message is being answered."""
        return bool(self._busy)

    def held(self) -> list[claims.Claim]:
        """What is being written now."""
        return list(self._held)

    def give_back(self) -> int:
        """Return what is still being written to the queue; returns how many reports others will write."""
        returned = 0
        for claim in self.held():
            # One by one: a report that was finished a moment ago must not keep the others.
            with contextlib.suppress(StaleFence), transaction(self._url) as session:
                claims.give_back(session, claim)
                returned += 1
        return returned


class Attempt:
    """One try at a job: keeps its lease while the work moves on, and stores how it ended."""

    def __init__(self, claim: claims.Claim, settings: Settings) -> None:
        self._claim = claim
        self._settings = settings
        self._url = settings.database()
        self._lease = settings.lease_seconds
        self._extended = time.monotonic()
        self._extend_at = self._extended + self._lease / 3

    def moved_on(self) -> None:
        """Extend the lease when a third of it is used; raises StaleFence where the job was taken away.

        The work goes on while the database is away: it may be back before the lease ends; the fence sees to the rest.
        """
        if time.monotonic() < self._extend_at:
            return
        try:
            with self._transaction() as session:
                claims.heartbeat(session, self._claim, lease_seconds=self._lease)
        except OperationalError as error:
            say_unreachable(error)
            self._extend_at = time.monotonic() + DATABASE_PAUSE_SECONDS
        else:
            self._extended = time.monotonic()
            self._extend_at = self._extended + self._lease / 3

    def end_with(self, write: Callable[[], Draft]) -> str:
        """Outcome -> state: every way a try can end has its line here."""
        try:
            return self._outcome(write)
        except StaleFence:
            log.info("result_dropped", job_id=str(self._claim.job_id), fence=self._claim.fence)
            return "stale"

    def _outcome(self, write: Callable[[], Draft]) -> str:
        try:
            return self._finished(write())
        except StaleFence:
            raise
        except NotReportable as outcome:
            return self._ended("not_reportable", outcome)
        except PermanentFailure as outcome:
            return self._ended("failed", outcome)
        except TransientFailure as outcome:
            return self._again(outcome)
        except Exception as error:  # noqa: BLE001 - a process boundary: an unknown fault must not take the worker down
            name = type(error).__name__
            log.error("report_failed", job_id=str(self._claim.job_id), error=name, frames=frames(error))  # noqa: TRY400
            return self._again(TransientFailure("unexpected", f"{name}; the worker's log has more"), frames(error))

    def _finished(self, draft: Draft) -> str:
        """Store the report; again while the database is away and the lease may hold, which the fence makes safe."""
        while True:
            try:
                with self._transaction() as session:
                    claims.finish(session, self._claim)
                    versions.save(session, self._claim, draft)
            except OperationalError as error:
                if time.monotonic() - self._extended > self._lease:
                    raise
                say_unreachable(error)
                time.sleep(DATABASE_PAUSE_SECONDS)
            else:
                return "finished"

    def _ended(self, state: str, outcome: NotReportable | PermanentFailure) -> str:
        end = claims.not_reportable if state == "not_reportable" else claims.fail
        with self._transaction() as session:
            end(session, self._claim, outcome.reason, outcome.detail)
        return state

    def _again(self, outcome: TransientFailure, where: list[str] | None = None) -> str:
        with self._transaction() as session:
            claims.retry_later(
                session,
                self._claim,
                outcome.reason,
                outcome.detail,
                pause_seconds=self._settings.retry_seconds,
                maximum_attempts=self._settings.maximum_attempts,
                frames=where,
            )
        return "retry"

    def _transaction(self) -> AbstractContextManager[Session]:
        return transaction(self._url)


def say_unreachable(error: OperationalError) -> None:
    """Log that the database is away, and of what kind the error was."""
    log.warning("database.unreachable", why=type(error.orig).__name__)


#: A study and its images in one look.
STUDY = text("""
    SELECT patient_id, study_instance_uid, studies.modality, studies.body_part,
        file_path, sop_instance_uid, called_ae_title
    FROM studies LEFT JOIN instances ON instances.study_id = studies.id AND instances.reportable
    WHERE studies.id = :study_id
    ORDER BY file_path
""")


def _study(claim: claims.Claim, settings: Settings) -> StudyToReport:
    with statements(settings.database()) as session:
        rows = session.execute(STUDY, {"study_id": claim.study_id}).all()
        late_arrivals = lifecycle.late_arrivals(session, claim.study_id, claim.revision)
    study, images = rows[0], [row for row in rows if row.file_path is not None]
    return StudyToReport(
        instances=[StoredInstance(settings.data_dir / row.file_path, row.sop_instance_uid) for row in images],
        modality=study.modality,
        body_part=study.body_part,
        patient_hash=fingerprint(study.patient_id),
        study_hash=fingerprint(study.study_instance_uid),
        called_ae_titles=frozenset(row.called_ae_title.strip() for row in images),
        late_arrivals=late_arrivals,
    )
