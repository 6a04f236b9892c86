"""One attempt at a job: load its study, extend its lease while work progresses, store how it ended."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

import structlog
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from db.errors import NotReportable, PermanentFailure, Reason, StaleFence, TransientFailure
from db.jobs import claims
from db.logs import frames
from db.reference import fingerprint
from db.session import statements, transaction
from db.studies import conflicts, lifecycle
from worker.images.study import StoredInstance
from worker.pipeline import StudyToReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from db.reports.versions import Draft
    from db.settings import Settings

    #: Writes the draft of a study; calls its second argument whenever the work has progressed.
    Write = Callable[[StudyToReport, Callable[[], None]], Draft]

Outcome = Literal["finished", "not_reportable", "failed", "retry", "stale"]

T = TypeVar("T")

log = structlog.get_logger()

#: Pause before an unreachable database is tried again: short beside a lease, long beside a connection attempt.
DATABASE_PAUSE_SECONDS = 1.0

#: A study and its reportable instances in one round trip.
STUDY = text("""
    SELECT patient_id, study_instance_uid, studies.modality, studies.body_part,
        file_path, sop_instance_uid, called_ae_title
    FROM studies LEFT JOIN instances ON instances.study_id = studies.id AND instances.reportable
    WHERE studies.id = :study_id
    ORDER BY file_path
""")


class Attempt:
    """The work on one claim. Its log lines carry the claim's ids, which the claim loop has bound."""

    def __init__(self, claim: claims.Claim, settings: Settings) -> None:
        self._claim = claim
        self._settings = settings
        self._url = settings.database()
        self._lease = settings.queue.lease_seconds
        self._extended = time.monotonic()
        self._extend_at = self._extended + self._lease / 3

    def execute(self, write: Write) -> Outcome:
        """Write the report and store the outcome: every possible end of an attempt is handled here or in `_outcome`."""
        try:
            return self._outcome(write)
        except StaleFence:
            log.info("result.dropped")
            return "stale"

    def _outcome(self, write: Write) -> Outcome:
        try:
            return self._finish(write(self._load_study(), self.extend_lease))
        except StaleFence:
            raise
        except NotReportable as outcome:
            return self._end("not_reportable", outcome)
        except PermanentFailure as outcome:
            return self._end("failed", outcome)
        except TransientFailure as outcome:
            return self._retry(outcome)
        except OperationalError as error:
            return self._give_back() if error.connection_invalidated else self._unexpected(error)
        except Exception as error:  # noqa: BLE001 - a process boundary: an unknown fault must not take the worker down
            return self._unexpected(error)

    def _unexpected(self, error: Exception) -> Outcome:
        name = type(error).__name__
        log.error("attempt.failed", error=name, frames=frames(error))  # its text may hold a patient's data
        return self._retry(TransientFailure(Reason.UNEXPECTED, f"{name}; see the worker's log"), frames(error))

    def extend_lease(self) -> None:
        """Extend the lease once a third of it is used; raises StaleFence if the job was taken away."""
        if time.monotonic() < self._extend_at:
            return
        try:
            with transaction(self._url) as session:
                claims.extend_lease(session, self._claim, lease_seconds=self._lease)
        except OperationalError:
            # The work continues: the database may be back before the lease ends, else the fence rejects the result.
            self._extend_at = time.monotonic() + DATABASE_PAUSE_SECONDS
        else:
            self._extended = time.monotonic()
            self._extend_at = self._extended + self._lease / 3

    def _load_study(self) -> StudyToReport:
        return self._until_available(self._read_study)

    def _read_study(self) -> StudyToReport:
        with statements(self._url) as session:
            rows = session.execute(STUDY, {"study_id": self._claim.study_id}).all()
            corrections = conflicts.corrections(session, self._claim.study_id)
            late_arrivals = lifecycle.late_arrivals(session, self._claim.study_id, self._claim.revision)
        data_dir = self._settings.operations.data_dir
        study, images = rows[0], [row for row in rows if row.file_path is not None]
        return StudyToReport(
            instances=[StoredInstance(data_dir / row.file_path, row.sop_instance_uid) for row in images],
            modality=study.modality,
            body_part=study.body_part,
            patient_hash=fingerprint(study.patient_id),
            study_hash=fingerprint(study.study_instance_uid),
            called_ae_titles=frozenset(row.called_ae_title.strip() for row in images),
            late_arrivals=late_arrivals,
            corrections=corrections,
        )

    def _finish(self, draft: Draft) -> Outcome:
        self._store(lambda session: claims.finish(session, self._claim, draft))
        return "finished"

    def _end(self, state: Literal["not_reportable", "failed"], outcome: NotReportable | PermanentFailure) -> Outcome:
        end = claims.not_reportable if state == "not_reportable" else claims.fail
        self._store(lambda session: end(session, self._claim, outcome.reason, outcome.detail))
        return state

    def _give_back(self) -> Outcome:
        """Return the job because the database went away in the middle of the attempt, which is not counted."""
        self._store(lambda session: claims.give_back(session, self._claim))
        return "retry"

    def _retry(self, outcome: TransientFailure, where: list[str] | None = None) -> Outcome:
        limits = self._settings.queue
        retry_later = partial(
            claims.retry_later, pause_seconds=limits.retry_seconds, max_attempts=limits.max_attempts, frames=where
        )
        self._store(lambda session: retry_later(session, self._claim, outcome.reason, outcome.detail))
        return "retry"

    def _store(self, outcome: Callable[[Session], None]) -> None:
        def store() -> None:
            with transaction(self._url) as session:
                outcome(session)

        self._until_available(store)

    def _until_available(self, query: Callable[[], T]) -> T:
        """Run *query* again while the database is unavailable and the lease may hold; the fence makes it safe."""
        while True:
            try:
                return query()
            except OperationalError:
                if time.monotonic() - self._extended > self._lease:
                    raise
                time.sleep(DATABASE_PAUSE_SECONDS)
