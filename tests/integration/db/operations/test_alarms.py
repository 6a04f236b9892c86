"""Work that is there and does not get done raises an alarm that names what to do."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import text

from db.jobs import claims
from db.models import Process, Study
from db.operations import alarms, overview
from db.operations.heartbeats import Role
from db.session import transaction
from db.settings import Settings
from db.studies import lifecycle
from deploy.operate import status
from tests.integration.db.jobs.test_claims import DRAFT

if TYPE_CHECKING:
    from tests.integration.db.conftest import Arrivals


def raised(url: str) -> list[str]:
    with transaction(url) as session:
        return [alarm.code for alarm in alarms.raised(session, after_seconds=300, cap_seconds=5400)]


def beat(url: str, role: Role) -> None:
    """A sign of life of a process of its own: this one is one process, and beats in one role."""
    with transaction(url) as session:
        session.merge(Process(name=f"host:{role}", role=role, info={"slots": 2}))


def silence(url: str, role: str) -> None:
    with transaction(url) as session:
        session.execute(text("UPDATE processes SET seen_at = seen_at - interval '1 h' WHERE role = :r"), {"r": role})


def let_time_pass(url: str) -> None:
    with transaction(url) as session:
        session.execute(text("UPDATE jobs SET queued_at = queued_at - interval '1 h'"))
        session.execute(text("UPDATE jobs SET available_at = available_at - interval '1 h'"))
        session.execute(text("UPDATE studies SET last_received_at = last_received_at - interval '1 h'"))


def fail(arrivals: Arrivals, times: int) -> None:
    """That many more studies arrive, and each fails."""
    for _ in range(times):
        claim = type(arrivals)(arrivals.url).running_job()
        with transaction(arrivals.url) as session:
            claims.fail(session, claim, "reference_index", "its index cannot be read")


def report(arrivals: Arrivals) -> None:
    """One more study arrives and gets its report."""
    claim = type(arrivals)(arrivals.url).running_job()
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, DRAFT)


def let_the_leases_run_out(url: str, ago: str) -> None:
    with transaction(url) as session:
        session.execute(
            text("UPDATE jobs SET lease_until = clock_timestamp() - CAST(:ago AS interval) WHERE state = 'running'"),
            {"ago": ago},
        )


def let_it_grow(url: str, seconds: float) -> None:
    with transaction(url) as session:
        session.execute(
            text("UPDATE studies SET revision_started_at = clock_timestamp() - make_interval(secs => :seconds)"),
            {"seconds": seconds},
        )


@pytest.fixture
def staffed(arrivals: Arrivals) -> Arrivals:
    """A worker and a dispatcher are alive."""
    beat(arrivals.url, Role.WORKER)
    beat(arrivals.url, Role.DISPATCHER)
    return arrivals


@pytest.fixture
def waiting(arrivals: Arrivals) -> Arrivals:
    """A report has waited for an hour; the dispatcher is alive."""
    beat(arrivals.url, Role.DISPATCHER)
    arrivals.image()
    arrivals.settle()
    let_time_pass(arrivals.url)
    return arrivals


def test_an_idle_house_raises_no_alarm(database_url: str) -> None:
    assert raised(database_url) == []


def test_a_report_that_waits_a_moment_raises_no_alarm(staffed: Arrivals) -> None:
    staffed.image()
    staffed.settle()

    assert raised(staffed.url) == []


def test_without_a_worker_there_is_an_alarm(waiting: Arrivals) -> None:
    assert raised(waiting.url) == ["no_worker"]


def test_workers_that_live_and_claim_nothing_raise_an_alarm(waiting: Arrivals) -> None:
    beat(waiting.url, Role.WORKER)

    assert raised(waiting.url) == ["nothing_claimed"]


def test_reports_that_are_claimed_and_never_written_raise_an_alarm(waiting: Arrivals) -> None:
    beat(waiting.url, Role.WORKER)
    type(waiting)(waiting.url).image()
    waiting.settle()
    let_time_pass(waiting.url)
    waiting.claim()

    assert raised(waiting.url) == ["nothing_written"]


def test_a_long_queue_that_moves_raises_no_alarm(waiting: Arrivals) -> None:
    beat(waiting.url, Role.WORKER)
    type(waiting)(waiting.url).image()
    waiting.settle()
    let_time_pass(waiting.url)
    claim = waiting.claim()
    assert claim is not None
    with transaction(waiting.url) as session:
        claims.finish(session, claim, DRAFT)

    assert raised(waiting.url) == []


def test_a_study_that_arrives_without_a_dispatcher_raises_an_alarm(arrivals: Arrivals) -> None:
    arrivals.image()
    assert raised(arrivals.url) == ["no_dispatcher"]

    beat(arrivals.url, Role.DISPATCHER)
    assert raised(arrivals.url) == []


def test_a_worker_alone_in_a_new_house_raises_an_alarm(database_url: str) -> None:
    beat(database_url, "worker")

    assert raised(database_url) == ["no_dispatcher"]


def test_a_dispatcher_that_fell_silent_raises_an_alarm_while_nothing_arrives(database_url: str) -> None:
    beat(database_url, "dispatcher")
    assert raised(database_url) == []

    silence(database_url, "dispatcher")
    assert raised(database_url) == ["no_dispatcher"]


def test_three_studies_that_fail_in_a_row_raise_an_alarm(staffed: Arrivals) -> None:
    fail(staffed, 2)
    assert raised(staffed.url) == []

    fail(staffed, 1)
    assert raised(staffed.url) == ["everything_fails"]


def test_a_report_after_many_failures_ends_the_alarm(staffed: Arrivals) -> None:
    fail(staffed, 4)
    report(staffed)

    assert raised(staffed.url) == []


def test_failures_after_a_report_raise_the_alarm_again(staffed: Arrivals) -> None:
    report(staffed)
    fail(staffed, 3)

    assert raised(staffed.url) == ["everything_fails"]


def test_studies_tried_again_by_an_operator_raise_no_alarm_any_more(staffed: Arrivals) -> None:
    fail(staffed, 3)
    with transaction(staffed.url) as session:
        for study in session.query(Study).with_for_update():
            claims.retry(session, study)

    assert raised(staffed.url) == []


def test_one_study_that_fails_at_each_of_its_revisions_raises_no_alarm(staffed: Arrivals) -> None:
    for _ in range(3):
        claim = staffed.running_job()
        with transaction(staffed.url) as session:
            claims.fail(session, claim, "prompt_too_long", "it does not fit")

    assert raised(staffed.url) == []


def test_failures_of_long_ago_raise_no_alarm(staffed: Arrivals) -> None:
    fail(staffed, 3)
    with transaction(staffed.url) as session:
        session.execute(text("UPDATE studies SET first_received_at = first_received_at - interval '25 h'"))

    assert raised(staffed.url) == []


def test_studies_that_cannot_be_reported_or_were_cancelled_are_no_failures(staffed: Arrivals) -> None:
    for _ in range(3):
        claim = type(staffed)(staffed.url).running_job()
        with transaction(staffed.url) as session:
            claims.not_reportable(session, claim, "no_pixels", "its images hold no pixels")
        cancelled = type(staffed)(staffed.url)
        cancelled.running_job()
        with transaction(staffed.url) as session:
            claims.cancel(session, lifecycle.find(session, cancelled.uid, lock=True))

    assert raised(staffed.url) == []


def test_a_report_that_nobody_takes_from_its_dead_worker_raises_an_alarm(staffed: Arrivals) -> None:
    staffed.running_job()
    let_the_leases_run_out(staffed.url, "290 s")
    assert raised(staffed.url) == []

    let_the_leases_run_out(staffed.url, "301 s")
    assert raised(staffed.url) == ["not_rescued"]

    silence(staffed.url, "dispatcher")
    assert raised(staffed.url) == ["not_rescued", "no_dispatcher"]


def test_a_dispatcher_that_lives_and_settles_nothing_raises_an_alarm(staffed: Arrivals) -> None:
    staffed.image()
    let_it_grow(staffed.url, 5400 + 290)
    assert raised(staffed.url) == []

    let_it_grow(staffed.url, 5400 + 301)
    assert raised(staffed.url) == ["nothing_settled"]

    staffed.settle()
    assert raised(staffed.url) == []


def test_an_alarm_stands_in_the_status_with_what_to_do_and_without_the_patient(staffed: Arrivals) -> None:
    fail(staffed, 3)
    settings = Settings(database_url=SecretStr(staffed.url))
    console = Console(file=io.StringIO(), width=200, record=True)
    status.show(settings, console, as_json=False)

    alarm = next(line for line in console.export_text().splitlines() if line.startswith("ALARM"))
    assert "everything_fails" in alarm
    assert "`prelim retry`" in alarm
    assert "PHANTOM" not in alarm


def test_every_alarm_names_itself_by_one_of_the_known_codes(staffed: Arrivals) -> None:
    fail(staffed, 3)
    staffed.running_job()
    let_the_leases_run_out(staffed.url, "1 h")
    growing = type(staffed)(staffed.url)
    growing.image()
    let_it_grow(staffed.url, 7200)
    silence(staffed.url, "dispatcher")

    codes = raised(staffed.url)
    assert codes == ["everything_fails", "not_rescued", "no_dispatcher", "nothing_settled"]
    assert set(codes) <= set(alarms.CODES)


def test_the_queue_position_and_the_time_to_the_report_are_known(arrivals: Arrivals) -> None:
    beat(arrivals.url, Role.WORKER)
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, DRAFT)
        session.execute(text("UPDATE jobs SET claimed_at = finished_at - interval '10 s'"))
    queue = [type(arrivals)(arrivals.url) for _ in range(3)]
    for study in queue:
        study.image()
        study.settle()

    with transaction(arrivals.url) as session:
        ids = [lifecycle.find(session, study.uid).id for study in queue]
        forecasts = [overview.forecast(session, study_id) for study_id in ids]
        assert overview.forecast(session, claim.study_id) is None

    # Two slots, both taken: the first two of the queue come after ten seconds, the third ten later, each for ten.
    assert [(f.position, f.seconds) for f in forecasts if f] == [(1, 20), (2, 20), (3, 30)]
