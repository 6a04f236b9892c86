"""Every way a try can end becomes its state in the database."""

from __future__ import annotations

import datetime as dt
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from db import jobs
from db.errors import NotReportable, PermanentFailure, TransientFailure
from db.models import Job, Report
from db.session import transaction
from db.settings import Settings
from tests.integration.db.conftest import Arrivals
from tests.integration.db.test_jobs import DRAFT
from worker import tasks

if TYPE_CHECKING:
    import uuid
    from pathlib import Path

    from db.reports import Draft
    from worker.reporter import StudyToReport


@pytest.fixture
def arrivals(database_url: str) -> Arrivals:
    waiting = Arrivals(database_url)
    waiting.image()
    waiting.settle()
    return waiting


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, database_url=database_url, lease_seconds=30, retry_seconds=60)


def written(_study: StudyToReport, _moved_on: Any) -> Draft:
    return DRAFT


def ending_with(outcome: Exception) -> Any:
    def write(_study: StudyToReport, _moved_on: Any) -> Draft:
        raise outcome

    return write


def job(url: str) -> Job:
    with transaction(url) as session:
        return session.scalars(select(Job)).one()


def test_a_written_report_finishes_its_job(arrivals: Arrivals, settings: Settings) -> None:
    assert tasks.Slots(settings).run(written) == "finished"
    assert arrivals.state() == "reported"


def test_nothing_waiting_is_no_work(settings: Settings) -> None:
    assert tasks.Slots(settings).run(written) is None


@pytest.mark.usefixtures("arrivals")
def test_the_writer_is_told_where_the_files_are_and_no_patient(settings: Settings) -> None:
    seen: list[StudyToReport] = []

    def write(study: StudyToReport, _moved_on: Any) -> Draft:
        seen.append(study)
        return DRAFT

    tasks.Slots(settings).run(write)

    assert seen[0].instances[0].path.is_relative_to(settings.data_dir)
    assert "PHANTOM" not in repr(seen)


def test_the_writer_is_told_which_of_our_names_the_images_were_sent_to(database_url: str, settings: Settings) -> None:
    waiting, seen = Arrivals(database_url), []
    waiting.image(called_ae_title="PRELIM_DEMO")
    waiting.image(called_ae_title="PRELIM")
    waiting.image(called_ae_title="OTHER", reportable=False)
    waiting.settle()

    tasks.Slots(settings).run(lambda study, _: seen.append(study) or DRAFT)

    assert seen[0].called_ae_titles == {"PRELIM_DEMO", "PRELIM"}


def test_images_that_cannot_make_a_report_end_the_study_with_the_reason(arrivals: Arrivals, settings: Settings) -> None:
    assert tasks.Slots(settings).run(ending_with(NotReportable("video", "it is a film"))) == "not_reportable"
    assert arrivals.state() == "not_reportable"
    assert (job(arrivals.url).reason, job(arrivals.url).detail) == ("video", "it is a film")


def test_a_permanent_failure_is_not_tried_again(arrivals: Arrivals, settings: Settings) -> None:
    assert tasks.Slots(settings).run(ending_with(PermanentFailure("x", "y"))) == "failed"
    assert arrivals.state() == "failed"


def test_a_transient_failure_is_queued_again_with_its_reason(arrivals: Arrivals, settings: Settings) -> None:
    assert tasks.Slots(settings).run(ending_with(TransientFailure("busy", "later"))) == "retry"
    assert (job(arrivals.url).state, job(arrivals.url).reason) == ("queued", "busy")


def test_an_unknown_fault_is_tried_again_and_its_text_is_kept_out_of_the_database(
    arrivals: Arrivals, settings: Settings
) -> None:
    assert tasks.Slots(settings).run(ending_with(ValueError("bad value 'PHANTOM^ONE'"))) == "retry"
    assert job(arrivals.url).detail == "ValueError; the worker's log has more"


def test_a_study_that_got_late_images_meanwhile_drops_the_result(arrivals: Arrivals, settings: Settings) -> None:
    def write(_study: StudyToReport, _moved_on: Any) -> Draft:
        arrivals.image()
        return DRAFT

    assert tasks.Slots(settings).run(write) == "stale"
    with transaction(arrivals.url) as session:
        assert session.scalars(select(Report)).all() == []


def test_the_lease_is_extended_while_the_work_moves_on(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("worker.tasks.time.monotonic", lambda: clock[0])

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

    assert tasks.Slots(settings).run(write) == "finished"


def test_a_worker_told_to_stop_gives_back_what_it_is_writing(arrivals: Arrivals, settings: Settings) -> None:
    slots = tasks.Slots(settings)

    def write(_study: StudyToReport, _moved_on: Any) -> Draft:
        assert slots.give_back() == 1
        return DRAFT

    assert slots.run(write) == "stale"
    assert slots.held() == []
    assert (job(arrivals.url).state, job(arrivals.url).attempt) == ("queued", 0)


class Broker:
    """Takes nudges for as long as it is there."""

    def __init__(self, *, there: bool = True) -> None:
        self.there = there
        self.nudges: list[uuid.UUID] = []

    def nudge(self, job_id: uuid.UUID) -> bool:
        if self.there:
            self.nudges.append(job_id)
        return self.there


@pytest.fixture
def no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every report takes longer than a turn."""
    monkeypatch.setattr(tasks, "TURN_SECONDS", 0.0)


def answer(settings: Settings, broker: Broker, *, stopping: bool = False) -> int:
    stop = threading.Event()
    if stopping:
        stop.set()
    return tasks.Slots(settings).answer(written, broker.nudge, stop)


@pytest.mark.parametrize("reason", [None, jobs.LEASE_EXPIRED])
def test_one_message_is_enough_for_all_the_short_work_that_waits(
    database_url: str, settings: Settings, reason: str | None
) -> None:
    studies = waiting_studies(database_url, 3)
    with transaction(database_url) as session:
        session.execute(update(Job).values(reason=reason))
    broker = Broker()
    assert answer(settings, broker) == 3

    assert [study.state() for study in studies] == ["reported"] * 3
    assert broker.nudges == []


@pytest.mark.usefixtures("no_turns")
def test_after_a_long_report_the_next_one_gets_a_message_of_its_own(database_url: str, settings: Settings) -> None:
    waiting_studies(database_url, 2)
    broker = Broker()
    assert answer(settings, broker) == 1
    assert broker.nudges == [waiting_job(database_url)]

    assert answer(settings, broker) == 1
    assert len(broker.nudges) == 1, "nothing waits any more"


@pytest.mark.usefixtures("no_turns")
def test_while_the_broker_is_away_a_worker_goes_on_without_messages(database_url: str, settings: Settings) -> None:
    waiting_studies(database_url, 3)
    assert answer(settings, Broker(there=False)) == 3


def test_a_worker_told_to_stop_leaves_what_waits_to_another(database_url: str, settings: Settings) -> None:
    waiting_studies(database_url, 2)
    broker = Broker()
    assert answer(settings, broker, stopping=True) == 1
    assert broker.nudges == [waiting_job(database_url)]
    assert answer(settings, Broker(there=False), stopping=True) == 1


def waiting_job(url: str) -> uuid.UUID:
    with transaction(url) as session:
        return session.scalars(select(Job.id).where(Job.state == "queued")).one()


def waiting_studies(url: str, count: int) -> list[Arrivals]:
    studies = [Arrivals(url) for _ in range(count)]
    for study in studies:
        study.image()
        study.settle()
    return studies


def test_a_claim_that_could_not_be_stored_is_not_held(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(*_: object, **__: object) -> jobs.Claim:
        raise ConnectionResetError

    slots = tasks.Slots(settings)
    with monkeypatch.context() as outage:
        outage.setattr(jobs, "claim_next", broken_off)
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

    monkeypatch.setattr(tasks, "_study", broken_off)
    slots = tasks.Slots(settings)

    assert slots.run(written) == "retry"
    assert slots.held() == []
    assert (job(arrivals.url).state, job(arrivals.url).reason) == ("queued", "unexpected")


def test_a_stop_waits_for_a_claim_that_is_under_way(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    claiming, go_on = threading.Event(), threading.Event()
    claim_next = jobs.claim_next

    def slowly(*arguments: Any, **named: Any) -> jobs.Claim | None:
        claiming.set()
        assert go_on.wait(30)
        return claim_next(*arguments, **named)

    monkeypatch.setattr(jobs, "claim_next", slowly)
    slots = tasks.Slots(settings)

    def at_work() -> None:
        with slots.at_work():
            slots.run(written)

    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(at_work)
        assert claiming.wait(30)
        assert slots.busy
        go_on.set()
        answering.result()
    assert not slots.busy
    assert arrivals.state() == "reported"


def test_claims_do_not_wait_for_each_other_and_still_one_suspect_is_written_at_a_time(
    database_url: str, settings: Settings
) -> None:
    waiting_studies(database_url, 8)
    with transaction(database_url) as session:
        suspects = session.scalars(select(Job.id).limit(4)).all()
        session.execute(update(Job).where(Job.id.in_(suspects)).values(reason=jobs.LEASE_EXPIRED))
    slots, held_at_once = tasks.Slots(settings), []

    def write(_study: StudyToReport, _moved_on: Any) -> Draft:
        held_at_once.append(sum(claim.suspect for claim in slots.held()))
        return DRAFT

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: slots.answer(write, Broker().nudge, threading.Event()), range(8)))

    assert len(held_at_once) == 8
    assert max(held_at_once) == 1


def test_where_an_unknown_fault_came_from_is_kept(arrivals: Arrivals, settings: Settings) -> None:
    tasks.Slots(settings).run(ending_with(ValueError("bad value 'PHANTOM^ONE'")))

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
    monkeypatch.setattr(tasks, "DATABASE_PAUSE_SECONDS", 0.01)
    slots = tasks.Slots(settings.model_copy(update={"lease_seconds": 3}))
    away = Away(times=0)
    monkeypatch.setattr(tasks, "transaction", away)

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
    monkeypatch.setattr(tasks, "DATABASE_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(tasks, "transaction", Away(times=10**9))

    with pytest.raises(OperationalError):
        tasks.Slots(settings.model_copy(update={"lease_seconds": 0.2})).run(written)

    assert job(arrivals.url).state == "running", "until its lease is rescued"
