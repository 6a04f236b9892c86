"""Every way a try can end becomes its state in the database."""

from __future__ import annotations

import datetime as dt
import time
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from db.errors import NotReportable, PermanentFailure, TransientFailure
from db.jobs import claims
from db.models import Job, Report
from db.session import transaction
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_claims import DRAFT
from tests.integration.worker.conftest import written
from worker import claim_loop

if TYPE_CHECKING:
    from db.reports.versions import Draft
    from db.settings import Settings
    from worker.pipeline import StudyToReport


def job(url: str) -> Job:
    with transaction(url) as session:
        return session.scalars(select(Job)).one()


def ending_with(outcome: Exception) -> Any:
    def write(_study: StudyToReport, _moved_on: Any) -> Draft:
        raise outcome

    return write


def test_a_written_report_finishes_its_job(arrivals: Arrivals, settings: Settings) -> None:
    assert claim_loop.Slots(settings).run(written) == "finished"
    assert arrivals.state() == "reported"


def test_nothing_waiting_is_no_work(settings: Settings) -> None:
    assert claim_loop.Slots(settings).run(written) is None


@pytest.mark.usefixtures("arrivals")
def test_the_writer_is_told_where_the_files_are_and_no_patient(settings: Settings) -> None:
    seen: list[StudyToReport] = []

    def write(study: StudyToReport, _moved_on: Any) -> Draft:
        seen.append(study)
        return DRAFT

    claim_loop.Slots(settings).run(write)

    assert seen[0].instances[0].path.is_relative_to(settings.data_dir)
    assert "PHANTOM" not in repr(seen)


def test_the_writer_is_told_which_of_our_names_the_images_were_sent_to(database_url: str, settings: Settings) -> None:
    waiting, seen = Arrivals(database_url), []
    waiting.image(called_ae_title="PRELIM_DEMO")
    waiting.image(called_ae_title="PRELIM")
    waiting.image(called_ae_title="OTHER", reportable=False)
    waiting.settle()

    claim_loop.Slots(settings).run(lambda study, _: seen.append(study) or DRAFT)

    assert seen[0].called_ae_titles == {"PRELIM_DEMO", "PRELIM"}


def test_images_that_cannot_make_a_report_end_the_study_with_the_reason(arrivals: Arrivals, settings: Settings) -> None:
    assert claim_loop.Slots(settings).run(ending_with(NotReportable("video", "it is a film"))) == "not_reportable"
    assert arrivals.state() == "not_reportable"
    assert (job(arrivals.url).reason, job(arrivals.url).detail) == ("video", "it is a film")


def test_a_permanent_failure_is_not_tried_again(arrivals: Arrivals, settings: Settings) -> None:
    assert claim_loop.Slots(settings).run(ending_with(PermanentFailure("x", "y"))) == "failed"
    assert arrivals.state() == "failed"


def test_a_transient_failure_is_queued_again_with_its_reason(arrivals: Arrivals, settings: Settings) -> None:
    assert claim_loop.Slots(settings).run(ending_with(TransientFailure("busy", "later"))) == "retry"
    assert (job(arrivals.url).state, job(arrivals.url).reason) == ("queued", "busy")


def test_an_unknown_fault_is_tried_again_and_its_text_is_kept_out_of_the_database(
    arrivals: Arrivals, settings: Settings
) -> None:
    assert claim_loop.Slots(settings).run(ending_with(ValueError("bad value 'PHANTOM^ONE'"))) == "retry"
    assert job(arrivals.url).detail == "ValueError; the worker's log has more"


def test_a_study_that_got_late_images_meanwhile_drops_the_result(arrivals: Arrivals, settings: Settings) -> None:
    def write(_study: StudyToReport, _moved_on: Any) -> Draft:
        arrivals.image()
        return DRAFT

    assert claim_loop.Slots(settings).run(write) == "stale"
    with transaction(arrivals.url) as session:
        assert session.scalars(select(Report)).all() == []


def test_the_lease_is_extended_while_the_work_moves_on(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("worker.claim_loop.time.monotonic", lambda: clock[0])

    def write(_study: StudyToReport, moved_on: Any) -> Draft:
        soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
        with transaction(arrivals.url) as session:
            session.execute(update(Job).values(lease_until=soon))
        clock[0] += 1
        moved_on()
        assert job(arrivals.url).lease_until == soon
        clock[0] += settings.lease_seconds
        moved_on()
        assert job(arrivals.url).lease_until > soon
        return DRAFT

    assert claim_loop.Slots(settings).run(write) == "finished"


def test_a_worker_told_to_stop_gives_back_what_it_is_writing(arrivals: Arrivals, settings: Settings) -> None:
    slots = claim_loop.Slots(settings)

    def write(_study: StudyToReport, _moved_on: Any) -> Draft:
        assert slots.give_back() == 1
        return DRAFT

    assert slots.run(write) == "stale"
    assert slots.held() == []
    assert (job(arrivals.url).state, job(arrivals.url).attempt) == ("queued", 0)


def test_a_claim_that_could_not_be_stored_is_not_held(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(*_: object, **__: object) -> claims.Claim:
        raise ConnectionResetError

    slots = claim_loop.Slots(settings)
    with monkeypatch.context() as outage:
        outage.setattr(claims, "claim_next", broken_off)
        with pytest.raises(ConnectionResetError):
            slots.run(written)
    assert slots.held() == []
    assert (job(arrivals.url).state, job(arrivals.url).attempt) == ("queued", 0)
    assert slots.run(written) == "finished"


def test_a_study_that_cannot_be_read_after_its_claim_is_tried_again(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(*_: object) -> StudyToReport:
        raise ConnectionResetError

    monkeypatch.setattr(claim_loop, "_study", broken_off)
    slots = claim_loop.Slots(settings)

    assert slots.run(written) == "retry"
    assert slots.held() == []
    assert (job(arrivals.url).state, job(arrivals.url).reason) == ("queued", "unexpected")


def test_where_an_unknown_fault_came_from_is_kept(arrivals: Arrivals, settings: Settings) -> None:
    claim_loop.Slots(settings).run(ending_with(ValueError("bad value 'PHANTOM^ONE'")))

    frames = job(arrivals.url).frames
    assert frames is not None
    assert frames[-1].endswith(" write")
    assert "PHANTOM" not in str(frames)


class Away:
    """A database that cannot be reached the first *times* it is asked."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self, url: str) -> Any:
        if self.times:
            self.times -= 1
            raise OperationalError("", None, ConnectionError())
        return transaction(url)


def test_a_database_that_is_away_for_a_moment_costs_no_try_and_no_report(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_loop, "DATABASE_PAUSE_SECONDS", 0.01)
    slots = claim_loop.Slots(settings.model_copy(update={"lease_seconds": 3}))
    away = Away(times=0)
    monkeypatch.setattr(claim_loop, "transaction", away)

    def write(_study: StudyToReport, moved_on: Any) -> Draft:
        time.sleep(1.1)  # a third of the lease
        away.times = 1
        moved_on()
        assert away.times == 0, "the lease was not due"
        away.times = 2  # and again when the report is stored
        return DRAFT

    assert slots.run(write) == "finished"
    assert (arrivals.state(), job(arrivals.url).attempt) == ("reported", 1)


def test_a_database_that_stays_away_longer_than_the_lease_is_not_waited_for(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_loop, "DATABASE_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(claim_loop, "transaction", Away(times=10**9))

    with pytest.raises(OperationalError):
        claim_loop.Slots(settings.model_copy(update={"lease_seconds": 0.2})).run(written)

    assert job(arrivals.url).state == "running", "until its lease is rescued"
