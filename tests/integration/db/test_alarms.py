"""Work that is there and does not get done raises an alarm that names what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from db import alarms, jobs, overview, processes, reports, studies
from db.session import transaction
from tests.integration.db.test_jobs import DRAFT

if TYPE_CHECKING:
    from tests.integration.db.conftest import Arrivals


def raised(url: str) -> list[str]:
    with transaction(url) as session:
        return [alarm.code for alarm in alarms.raised(session, after_seconds=300)]


def beat(url: str, role: str) -> None:
    with transaction(url) as session:
        processes.beat(session, role, {"slots": 2})


def let_time_pass(url: str) -> None:
    with transaction(url) as session:
        session.execute(text("UPDATE jobs SET queued_at = queued_at - interval '1 h'"))
        session.execute(text("UPDATE jobs SET available_at = available_at - interval '1 h'"))
        session.execute(text("UPDATE studies SET last_received_at = last_received_at - interval '1 h'"))


@pytest.fixture
def waiting(arrivals: Arrivals) -> Arrivals:
    """A report has waited for an hour."""
    arrivals.image()
    arrivals.settle()
    let_time_pass(arrivals.url)
    return arrivals


def test_an_idle_house_raises_no_alarm(database_url: str) -> None:
    assert raised(database_url) == []


def test_a_report_that_waits_a_moment_raises_no_alarm(arrivals: Arrivals) -> None:
    arrivals.image()
    arrivals.settle()

    assert raised(arrivals.url) == []


def test_without_a_worker_there_is_an_alarm(waiting: Arrivals) -> None:
    assert raised(waiting.url) == ["no_worker"]


def test_workers_that_live_and_claim_nothing_raise_an_alarm(waiting: Arrivals) -> None:
    beat(waiting.url, "worker")

    assert raised(waiting.url) == ["nothing_claimed"]


def test_reports_that_are_claimed_and_never_written_raise_an_alarm(waiting: Arrivals) -> None:
    beat(waiting.url, "worker")
    type(waiting)(waiting.url).image()
    waiting.settle()
    let_time_pass(waiting.url)
    waiting.claim()

    assert raised(waiting.url) == ["nothing_written"]


def test_a_long_queue_that_moves_raises_no_alarm(waiting: Arrivals) -> None:
    beat(waiting.url, "worker")
    type(waiting)(waiting.url).image()
    waiting.settle()
    let_time_pass(waiting.url)
    claim = waiting.claim()
    assert claim is not None
    with transaction(waiting.url) as session:
        jobs.finish(session, claim)
        reports.save(session, claim, DRAFT)

    assert raised(waiting.url) == []


def test_studies_that_arrive_without_a_dispatcher_raise_an_alarm(arrivals: Arrivals) -> None:
    arrivals.image()
    let_time_pass(arrivals.url)
    assert raised(arrivals.url) == ["no_dispatcher"]

    beat(arrivals.url, "dispatcher")
    assert raised(arrivals.url) == []


def test_the_queue_position_and_the_time_to_the_report_are_known(arrivals: Arrivals) -> None:
    beat(arrivals.url, "worker")
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        jobs.finish(session, claim)
        reports.save(session, claim, DRAFT)
        session.execute(text("UPDATE jobs SET claimed_at = finished_at - interval '10 s'"))
    queue = [type(arrivals)(arrivals.url) for _ in range(3)]
    for study in queue:
        study.image()
        study.settle()

    with transaction(arrivals.url) as session:
        ids = [studies.find(session, study.uid).id for study in queue]
        forecasts = [overview.forecast(session, study_id) for study_id in ids]
        assert overview.forecast(session, claim.study_id) is None

    # Two slots, both taken: the first two of the queue come after ten seconds, the third ten later, each for ten.
    assert [(f.position, f.seconds) for f in forecasts if f] == [(1, 20), (2, 20), (3, 30)]
