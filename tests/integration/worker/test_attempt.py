"""Every way an attempt can end becomes a state in the database."""

from __future__ import annotations

import datetime as dt
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from db.errors import NotReportable, PermanentFailure, TransientFailure
from db.jobs import claims
from db.models import Job, Report
from db.reference import fingerprint
from db.reports.versions import Quoted, Shown
from db.session import transaction
from db.studies import lifecycle
from db.studies.identity import decisions
from db.studies.lifecycle import StudyAttributes
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_claims import DRAFT
from tests.integration.worker.conftest import written
from tests.polling import wait_until
from worker import attempt
from worker.claim_loop import ClaimLoop

if TYPE_CHECKING:
    from db.reports.versions import Draft
    from db.settings import Settings
    from worker.attempt import Outcome
    from worker.pipeline.pipeline import StudyToReport


def job(url: str) -> Job:
    with transaction(url) as session:
        return session.scalars(select(Job)).one()


def ending_with(outcome: Exception) -> Any:
    def write(_study: StudyToReport, _on_progress: Any) -> Draft:
        raise outcome

    return write


def test_written_report_finishes_its_job(arrivals: Arrivals, settings: Settings) -> None:
    assert ClaimLoop(settings).run_once(written) == "finished"
    assert arrivals.state() == "reported"


def test_empty_queue_is_no_work(settings: Settings) -> None:
    assert ClaimLoop(settings).run_once(written) is None


@pytest.mark.usefixtures("arrivals")
def test_writer_gets_file_paths_and_no_patient_data(settings: Settings) -> None:
    studies: list[StudyToReport] = []

    def write(study: StudyToReport, _on_progress: Any) -> Draft:
        studies.append(study)
        return DRAFT

    ClaimLoop(settings).run_once(write)

    assert studies[0].instances[0].path.is_relative_to(settings.operations.data_dir)
    assert "PHANTOM" not in repr(studies)


@pytest.mark.parametrize(("stored", "given"), [("F", "F"), (" m ", "M"), ("O", ""), ("", ""), ("DOE^JANE", "")])
def test_writer_gets_the_sex_only_if_it_is_m_or_f(
    database_url: str, settings: Settings, stored: str, given: str
) -> None:
    waiting, studies = Arrivals(database_url), []
    waiting.image(study=StudyAttributes(waiting.uid, patient_id="PHANTOM-1", patient_sex=stored))
    waiting.settle()

    def write(study: StudyToReport, _on_progress: Any) -> Draft:
        studies.append(study)
        return DRAFT

    ClaimLoop(settings).run_once(write)

    assert [study.patient_sex for study in studies] == [given]


def test_writer_gets_the_called_ae_titles_of_the_reportable_images(database_url: str, settings: Settings) -> None:
    waiting, studies = Arrivals(database_url), []
    waiting.image(called_ae_title="PRELIM_DEMO")
    waiting.image(called_ae_title="PRELIM")
    waiting.image(called_ae_title="OTHER", reportable=False)
    waiting.settle()

    ClaimLoop(settings).run_once(lambda study, _: studies.append(study) or DRAFT)

    assert studies[0].called_ae_titles == {"PRELIM_DEMO", "PRELIM"}


def test_writer_follows_the_corrected_identity(database_url: str, settings: Settings) -> None:
    waiting, studies = Arrivals(database_url), []
    waiting.image()
    waiting.image(study=StudyAttributes(waiting.uid, patient_id="OTHER", patient_name="PHANTOM^ONE"))
    with transaction(database_url) as session:
        decisions.decide(session, lifecycle.find(session, waiting.uid), decisions.Decision.TAKE_OVER, "user test")
    waiting.settle()

    ClaimLoop(settings).run_once(lambda study, _: studies.append(study) or DRAFT)

    # Earlier cases of the patient may be under the former Patient ID.
    assert studies[0].patient_hashes == {fingerprint("OTHER"), fingerprint("PHANTOM-1")}
    assert len(studies[0].instances) == 2
    assert studies[0].corrections == ["Demographics corrected by an operator: Patient ID."]


def test_unusable_images_end_the_study_as_not_reportable_with_the_reason(
    arrivals: Arrivals, settings: Settings
) -> None:
    assert ClaimLoop(settings).run_once(ending_with(NotReportable("video", "it is a film"))) == "not_reportable"
    assert arrivals.state() == "not_reportable"
    assert (job(arrivals.url).reason, job(arrivals.url).detail) == ("video", "it is a film")


def test_permanent_failure_is_not_retried(arrivals: Arrivals, settings: Settings) -> None:
    assert ClaimLoop(settings).run_once(ending_with(PermanentFailure("x", "y"))) == "failed"
    assert arrivals.state() == "failed"


def test_characters_that_the_database_cannot_store_are_removed_from_a_report(
    arrivals: Arrivals, settings: Settings
) -> None:
    draft = replace(DRAFT, findings="No\0 effusion\ud800.", provenance={"tokens\0": ["a\0", 1, None]})

    assert ClaimLoop(settings).run_once(lambda *_: draft) == "finished"
    with transaction(arrivals.url) as session:
        report = session.scalars(select(Report)).one()
        assert (report.findings, report.provenance) == ("No effusion\ufffd.", {"tokens": ["a", 1, None]})


@pytest.mark.parametrize(
    ("values", "detail"),
    [
        (
            {"provenance": {"out_of_distribution": {"z": [0.5, float("nan")]}}},
            "provenance.out_of_distribution.z is nan",
        ),
        ({"evidence": [Quoted(uuid.uuid4(), float("inf"), "text")]}, "similarity is inf"),
        ({"findings": "\0", "impression": "\0\0"}, "only characters that cannot be stored"),
        ({"images": [Shown(b"", "1.2", 2**40, "", {})]}, "refuses a value"),
    ],
)
def test_report_that_the_database_cannot_store_fails_once(
    arrivals: Arrivals, settings: Settings, values: dict[str, Any], detail: str
) -> None:
    assert ClaimLoop(settings).run_once(lambda *_: replace(DRAFT, **values)) == "failed"
    failed = job(arrivals.url)
    assert (failed.reason, failed.attempt) == ("not_storable", 1)
    assert detail in (failed.detail or "")


def test_transient_failure_is_queued_again_with_its_reason(arrivals: Arrivals, settings: Settings) -> None:
    assert ClaimLoop(settings).run_once(ending_with(TransientFailure("busy", "later"))) == "retry"
    assert (job(arrivals.url).state, job(arrivals.url).reason) == ("queued", "busy")


def test_unexpected_error_is_retried_and_its_text_is_kept_out_of_the_database(
    arrivals: Arrivals, settings: Settings
) -> None:
    assert ClaimLoop(settings).run_once(ending_with(ValueError("bad value 'PHANTOM^ONE'"))) == "retry"
    assert job(arrivals.url).detail == "ValueError; see the worker's log"


def test_late_images_during_an_attempt_drop_its_result(arrivals: Arrivals, settings: Settings) -> None:
    def write(_study: StudyToReport, _on_progress: Any) -> Draft:
        arrivals.image()
        return DRAFT

    assert ClaimLoop(settings).run_once(write) == "stale"
    with transaction(arrivals.url) as session:
        assert session.scalars(select(Report)).all() == []


def test_lease_is_extended_by_progress_once_a_third_is_used(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("worker.attempt.time.monotonic", lambda: clock[0])

    def write(_study: StudyToReport, on_progress: Any) -> Draft:
        soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
        with transaction(arrivals.url) as session:
            session.execute(update(Job).values(lease_until=soon))
        clock[0] += 1
        on_progress()
        assert job(arrivals.url).lease_until == soon
        clock[0] += settings.queue.lease_seconds
        on_progress()
        assert job(arrivals.url).lease_until > soon
        return DRAFT

    assert ClaimLoop(settings).run_once(write) == "finished"


def test_stopped_worker_gives_back_its_jobs_without_counting_an_attempt(arrivals: Arrivals, settings: Settings) -> None:
    jobs = ClaimLoop(settings)

    def write(_study: StudyToReport, _on_progress: Any) -> Draft:
        assert jobs.give_back() == 1
        return DRAFT

    assert jobs.run_once(write) == "stale"
    assert jobs.held() == []
    assert (job(arrivals.url).state, job(arrivals.url).attempt) == ("queued", 0)


def test_claim_that_could_not_be_committed_is_not_held(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(*_: object, **__: object) -> claims.Claim:
        raise ConnectionResetError

    jobs = ClaimLoop(settings)
    with monkeypatch.context() as outage:
        outage.setattr(claims, "claim_next", broken_off)
        with pytest.raises(ConnectionResetError):
            jobs.run_once(written)
    assert jobs.held() == []
    assert (job(arrivals.url).state, job(arrivals.url).attempt) == ("queued", 0)
    assert jobs.run_once(written) == "finished"


def test_study_that_cannot_be_loaded_after_its_claim_is_retried(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(_url: str) -> Any:
        raise ConnectionResetError

    monkeypatch.setattr(attempt, "statements", broken_off)
    jobs = ClaimLoop(settings)

    assert jobs.run_once(written) == "retry"
    assert jobs.held() == []
    assert (job(arrivals.url).state, job(arrivals.url).reason) == ("queued", "unexpected")


def test_stack_frames_of_an_unexpected_error_are_stored(arrivals: Arrivals, settings: Settings) -> None:
    ClaimLoop(settings).run_once(ending_with(ValueError("bad value 'PHANTOM^ONE'")))

    frames = job(arrivals.url).frames
    assert frames is not None
    assert frames[-1].endswith(" write")
    assert "PHANTOM" not in str(frames)


def test_last_transient_failure_is_a_failed_job(arrivals: Arrivals, settings: Settings) -> None:
    jobs = ClaimLoop(settings.replace(max_attempts=1))
    assert jobs.run_once(ending_with(TransientFailure("busy", "later"))) == "failed"
    assert arrivals.state() == "failed"


def hang_until(jobs: ClaimLoop, ended: threading.Event) -> Outcome | None:
    """Make an attempt that hangs until *ended*."""

    def write(_study: StudyToReport, _on_progress: Any) -> Draft:
        assert ended.wait(30)
        return DRAFT

    return jobs.run_once(write)


def test_attempt_without_progress_is_ended_by_its_own_worker_and_its_stack_is_stored(
    arrivals: Arrivals, settings: Settings
) -> None:
    jobs, ended = ClaimLoop(settings.replace(lease_seconds=0.5)), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(hang_until, jobs, ended)
        wait_until(lambda: bool(jobs.end_silent()) and job(arrivals.url).reason is not None, 10)
        ended.set()
        assert hanging.result() == "stale"

    ended_job = job(arrivals.url)
    assert (ended_job.state, ended_job.reason) == ("queued", "no_progress")
    assert (ended_job.detail or "").startswith("no progress for ")
    assert any(frame.endswith(" hang_until") for frame in ended_job.frames or [])


def test_attempt_with_progress_is_not_ended_by_its_worker(arrivals: Arrivals, settings: Settings) -> None:
    jobs = ClaimLoop(settings.replace(lease_seconds=0.5))

    def write(_study: StudyToReport, on_progress: Any) -> Draft:
        for _ in range(20):
            time.sleep(0.05)
            on_progress()
            jobs.end_silent()
        return DRAFT

    assert jobs.run_once(write) == "finished"
    assert job(arrivals.url).attempt == 1


def test_report_that_is_being_stored_is_not_ended(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, finish = ClaimLoop(settings), claims.finish

    def slowly(*arguments: Any) -> None:
        jobs.end_silent(0.0)
        finish(*arguments)

    monkeypatch.setattr(claims, "finish", slowly)

    assert jobs.run_once(written) == "finished"
    assert arrivals.state() == "reported"


class Outage:
    """A database that cannot be reached the first *times* it is used."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self, url: str) -> Any:
        if self.times:
            self.times -= 1
            raise OperationalError("", None, ConnectionError())
        return transaction(url)


def test_short_database_outage_costs_no_attempt_and_no_report(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "DATABASE_PAUSE_SECONDS", 0.01)
    jobs = ClaimLoop(settings.replace(lease_seconds=3))
    outage = Outage(times=0)
    monkeypatch.setattr(attempt, "transaction", outage)

    def write(_study: StudyToReport, on_progress: Any) -> Draft:
        time.sleep(1.1)  # a third of the lease
        outage.times = 1
        on_progress()
        assert outage.times == 0, "the lease was not due"
        outage.times = 2  # and again when the report is stored
        return DRAFT

    assert jobs.run_once(write) == "finished"
    assert (arrivals.state(), job(arrivals.url).attempt) == ("reported", 1)


def test_reading_of_a_study_ends_with_the_lease_in_a_long_outage(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "DATABASE_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(attempt, "statements", Outage(times=10**9))

    assert ClaimLoop(settings.replace(lease_seconds=0.2)).run_once(written) == "retry"
    assert arrivals.state() == "settled"


def test_report_is_stored_after_an_outage_longer_than_the_lease(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "DATABASE_PAUSE_SECONDS", 0.01)
    outage = Outage(times=0)
    monkeypatch.setattr(attempt, "transaction", outage)

    def write(_study: StudyToReport, _on_progress: Any) -> Draft:
        outage.times = 40  # 0.4 s
        return DRAFT

    assert ClaimLoop(settings.replace(lease_seconds=0.2)).run_once(write) == "finished"
    assert arrivals.state() == "reported"
