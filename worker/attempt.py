"""One attempt at a job: load its study, extend its lease while work progresses, store how it ended."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import structlog
from sqlalchemy.exc import DataError, OperationalError

from db.answers import inquiries, predictions
from db.answers.answer import Answer, Diagnosis
from db.errors import NotReportable, PermanentFailure, Reason, StaleFence, TransientFailure
from db.jobs import claimed_study, claims
from db.logs import frames, stack
from db.reference import fingerprint
from db.reports import image_files
from db.reports.versions import Draft
from db.session import statements, transaction
from db.states import JobKind, JobState
from db.storage import object_files
from db.storage.errors import Unavailable
from db.studies import imaging_request, lifecycle, other_objects, transfers
from db.studies.identity import decisions
from worker.images.stored_files import located
from worker.pipeline.pipeline import StudyToReport

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Sequence

    from sqlalchemy import Row
    from sqlalchemy.orm import Session

    from db.settings import Settings

    Result = Draft | Answer | Diagnosis
    #: Writes the draft of a study, or the answer to its inquiry; calls its second argument whenever the work has
    #: progressed.
    Write = Callable[[StudyToReport, Callable[[], None]], Result]

Outcome = Literal["finished", "not_reportable", "failed", "retry", "stale"]

T = TypeVar("T")

log = structlog.get_logger()

#: Result of each kind of job.
RESULTS: dict[str, type[Result]] = {JobKind.REPORT: Draft, JobKind.QUESTION: Answer, JobKind.DIAGNOSIS: Diagnosis}
#: Pause before an unreachable database is tried again: short beside a lease, long beside a connection attempt.
DATABASE_PAUSE_SECONDS = 1.0
#: Share of a lease before its end at which an attempt without progress is ended: by its own process, which knows that
#: it lives, and not by a dispatcher, which would have to take it for dead.
MARGIN = 0.1
#: Share of a lease without progress that counts as silence; the lease is extended only when a third of it is used.
SILENT = 0.5


class Attempt:
    """The work on one claim. Its log lines carry the claim's ids, which the claim loop has bound."""

    def __init__(self, claim: claims.Claim, settings: Settings) -> None:
        self.claim = claim
        self._settings = settings
        self._url = settings.database()
        self._data_dir = settings.operations.data_dir
        #: Paths of the report's images that are in files.
        self._image_files: Sequence[str] = ()
        self._lease = settings.queue.lease_seconds
        self._extended = self._progressed = time.monotonic()
        self._extend_at = self._extended + self._lease / 3
        self._thread = threading.get_ident()
        #: True once its result is being stored: it can no longer be ended for its silence.
        self._storing = False
        #: True once it was ended for its silence; its thread goes on.
        self.ended = False
        #: Reason of a job that has failed.
        self.reason: Reason | None = None

    def execute(self, write: Write) -> Outcome:
        """Write the result and store the outcome: every possible end of an attempt is handled here or in `_outcome`."""
        try:
            outcome = self._outcome(write)
        except StaleFence:
            log.info("result.dropped")
            outcome = "stale"
        if outcome != "finished" and self._image_files:
            self._remove_images()
        return outcome

    def _outcome(self, write: Write) -> Outcome:
        try:
            with object_files.opened(self._settings) as stored:
                result = write(self._load_study(stored), self.extend_lease)
            if isinstance(result, Draft):
                self._write_images(result)
            self.extend_lease()
            self._storing = True
            return self._finish(result)
        except StaleFence:
            raise
        except NotReportable as outcome:
            return self._end("not_reportable", outcome)
        except PermanentFailure as outcome:
            return self._end("failed", outcome)
        except TransientFailure as outcome:
            return self._retry(outcome)
        except (OperationalError, Unavailable) as error:
            return self._without_service(error)
        except Exception as error:  # noqa: BLE001 - a process boundary: an unknown fault must not take the worker down
            return self._unexpected(error)

    def _unexpected(self, error: Exception) -> Outcome:
        name = type(error).__name__
        log.error("attempt.failed", error=name, frames=frames(error))  # its text may hold a patient's data
        return self._retry(TransientFailure(Reason.UNEXPECTED, f"{name}; see the worker's log"), frames(error))

    def extend_lease(self) -> None:
        """Note progress; extend the lease once a third of it is used. Raises StaleFence if the job was taken away."""
        self._progressed = time.monotonic()
        if time.monotonic() < self._extend_at:
            return
        try:
            with transaction(self._url) as session:
                claims.extend_lease(session, self.claim, lease_seconds=self._lease)
        except OperationalError:
            # The work continues: the database may be back before the lease ends, else the fence rejects the result.
            self._extend_at = time.monotonic() + DATABASE_PAUSE_SECONDS
        else:
            self._extended = time.monotonic()
            self._extend_at = self._extended + self._lease / 3

    @property
    def silent_seconds(self) -> float:
        """Seconds since the last progress."""
        return time.monotonic() - self._progressed

    def end_if_silent(self) -> None:
        """End the attempt, from another thread, if its lease is about to expire because it made no progress."""
        lease_ends = self._extended + self._lease * (1 - MARGIN)
        if time.monotonic() > lease_ends and self.silent_seconds > self._lease * SILENT:
            self.end_silent()

    def end_silent(self) -> None:
        """End the attempt, from another thread, because it makes no progress; its thread cannot be ended."""
        if self._storing or self.ended:
            return
        where = stack(self._thread)
        silence = f"no progress for {self.silent_seconds:.0f} s"
        try:
            with transaction(self._url) as session:
                self._retry_later(session, TransientFailure(Reason.NO_PROGRESS, silence), where)
        except StaleFence:
            pass
        except OperationalError:
            return
        self.ended = True
        log.error("attempt.silent", job_id=str(self.claim.job_id), seconds=round(self.silent_seconds), frames=where)

    def _load_study(self, stored: object_files.Files) -> StudyToReport:
        study, images = self._until_available(self._read_study, self._lease)
        return replace(study, instances=located(stored, images, self.extend_lease))

    def _read_study(self) -> tuple[StudyToReport, list[Row[Any]]]:
        with statements(self._url) as session:
            rows = claimed_study.rows(session, self.claim)
            study, images = rows[0], [row for row in rows if row.file_path is not None]
            corrections = _corrections(session, study, self.claim.study_id)
            former = decisions.former_patient_ids(session, self.claim.study_id) if study.decided else ()
            late_arrivals = self._late_arrivals(session)
            given = predictions.of_study(session, self.claim.study_id) if self.claim.kind == JobKind.DIAGNOSIS else []
            drafts = predictions.drafts_of_study(session, self.claim.study_id) if study.drafted else []
            inquiry = None if self.claim.kind == JobKind.REPORT else inquiries.content(session, self.claim.job_id)
            others = study.other_objects
            not_images = other_objects.not_images(session, self.claim.study_id, self.claim.kind) if others else []
        loaded = StudyToReport(
            instances=[],
            modality=study.modality,
            body_part=study.body_part,
            patient_sex=study.patient_sex.strip().upper() if study.patient_sex.strip().upper() in ("M", "F") else "",
            patient_hashes=frozenset(fingerprint(one) for one in (study.patient_id, *former) if one.strip()),
            study_hash=fingerprint(study.study_instance_uid),
            called_ae_titles=frozenset(row.called_ae_title.strip() for row in images),
            late_arrivals=late_arrivals,
            corrections=corrections,
            imaging_request=imaging_request.compared(study.indication, study.requested_procedure),
            not_images=not_images,
            inquiry=inquiry,
            predictions=given,
            drafts=drafts,
        )
        return loaded, images

    def _late_arrivals(self, session: Session) -> list[str]:
        """Return the sentences about images since the last report; an answer names its revision instead."""
        if self.claim.kind != JobKind.REPORT:
            return []
        return lifecycle.late_arrivals(session, self.claim.study_id, self.claim.revision)

    def _write_images(self, draft: Draft) -> None:
        if self._settings.operations.report_images != "files":
            return
        self.extend_lease()
        images = (image.png for image in draft.images)
        try:
            self._image_files = image_files.write(self._data_dir, self.claim.job_id, self.claim.token, images)
        except OSError as error:
            detail = f"the disk refuses the images of the report: {error.strerror}"
            raise TransientFailure(Reason.IMAGES_NOT_WRITTEN, detail) from error

    def _remove_images(self) -> None:
        """Delete the files of a report that was not stored, as far as possible: the audit finds the others."""
        try:
            for path in self._image_files:
                image_files.remove_unused(self._url, self._data_dir, path, own=True)
        except (OSError, OperationalError) as error:
            log.warning("report_image.left", error=type(error).__name__)

    def _finish(self, result: Result) -> Outcome:
        if not isinstance(result, RESULTS[self.claim.kind]):
            raise TypeError(f"expected the result of a {self.claim.kind}, got {type(result).__name__}")

        def finish(session: Session) -> None:
            if isinstance(result, Draft):
                claims.finish(session, self.claim, result, self._image_files)
            else:
                claims.finish_inquiry(session, self.claim, result)

        try:
            self._store(finish)
        except DataError as error:  # refused now, refused again
            raise PermanentFailure(Reason.NOT_STORABLE, "the database refuses a value of the result") from error
        return "finished"

    def _end(self, state: Literal["not_reportable", "failed"], outcome: NotReportable | PermanentFailure) -> Outcome:
        end = claims.not_reportable if state == "not_reportable" else claims.fail
        self._store(lambda session: end(session, self.claim, outcome.reason, outcome.detail))
        self.reason = outcome.reason
        return state

    def _give_back(self, waits_for: tuple[Reason, str] | None = None) -> Outcome:
        """Return the job because a service went away in the middle of the attempt, which is not counted."""
        self._store(lambda session: claims.give_back(session, self.claim, waits_for))
        return "retry"

    def _without_service(self, error: OperationalError | Unavailable) -> Outcome:
        """Return the job because database or object storage went away in the middle of the attempt."""
        if isinstance(error, OperationalError):
            return self._give_back() if error.connection_invalidated else self._unexpected(error)
        log.warning("attempt.waits_for_storage", error=str(error))
        self.reason = Reason.STORAGE_UNAVAILABLE
        return self._give_back((self.reason, str(error)))

    def _retry(self, outcome: TransientFailure, where: list[str] | None = None) -> Outcome:
        self.reason = outcome.reason
        state = self._store(lambda session: self._retry_later(session, outcome, where))
        return "failed" if state == JobState.FAILED else "retry"

    def _retry_later(self, session: Session, outcome: TransientFailure, where: list[str] | None) -> JobState:
        limits = self._settings.queue
        return claims.retry_later(
            session,
            self.claim,
            outcome.reason,
            outcome.detail,
            pause_seconds=limits.retry_seconds,
            max_attempts=limits.max_attempts,
            frames=where,
        )

    def _store(self, outcome: Callable[[Session], T]) -> T:
        def store() -> T:
            with transaction(self._url) as session:
                return outcome(session)

        return self._until_available(store, math.inf)

    def _until_available(self, query: Callable[[], T], seconds: float) -> T:
        """Run *query* again for *seconds* while the database is unavailable; a fence rejects late results."""
        while True:
            try:
                return query()
            except OperationalError:
                if time.monotonic() - self._extended > seconds:
                    raise
                self._progressed = time.monotonic()  # it waits and does not hang; the lease is not extended
                time.sleep(DATABASE_PAUSE_SECONDS)


def _corrections(session: Session, study: Row[Any], study_id: uuid.UUID) -> list[str]:
    """Return the sentences about corrected demographics, unidentified images and a transfer that broke off."""
    found = decisions.sentences(session, study_id) if study.decided or study.shared else []
    return found + (transfers.limitations(session, study_id) if study.broken_off else [])
