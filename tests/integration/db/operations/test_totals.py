"""Totals: every ended job and received object is counted once, some seconds later."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, text

from db.jobs import claims
from db.models import Instance
from db.operations.totals import totals
from db.reports.versions import Draft
from db.session import transaction

if TYPE_CHECKING:
    from db.operations.totals.totals import Totals
    from tests.integration.db.conftest import Arrivals


@pytest.fixture(autouse=True)
def without_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "LAG_SECONDS", -1)


def counted(url: str) -> Totals:
    with transaction(url) as session:
        totals.add_latest(session)
        return totals.read(session)


def reported(arrivals: Arrivals) -> None:
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, Draft("No effusion.", "Normal.", "1 of 1", "1", "d", {}))


def test_new_installation_has_all_series_at_zero(database_url: str) -> None:
    found = counted(database_url)

    assert len(found.durations) == 16
    assert {max(each.up_to) for each in found.durations.values()} == {0}
    assert set(found.ended.values()) == {0}


def test_report_is_counted_once_with_the_duration_of_each_step(arrivals: Arrivals) -> None:
    reported(arrivals)
    with transaction(arrivals.url) as session:
        session.execute(text("UPDATE studies SET revision_started_at = settled_at - interval '45 s', priority = 2"))
        session.execute(
            text(
                "UPDATE jobs SET priority = 2, queued_at = finished_at - interval '9 s',"
                " claimed_at = finished_at - interval '2 s'"
            )
        )
        session.execute(text("UPDATE studies SET settled_at = (SELECT queued_at FROM jobs)"))
        session.execute(text("UPDATE studies SET revision_started_at = settled_at - interval '45 s'"))
    first, again = counted(arrivals.url), counted(arrivals.url)

    assert first == again
    seconds = {step: found.seconds for (step, level), found in first.durations.items() if level == "stat"}
    assert seconds == pytest.approx({"settle": 45, "wait": 7, "write": 2, "total": 54})
    assert first.durations["write", "stat"].up_to[:2] == [0, 1]
    assert first.durations["write", "routine"].up_to[-1] == 0
    assert first.ended["report", "finished"] == 1
    assert (first.objects, first.bytes) == (1, 100)


def test_delay_of_a_person_who_retries_is_no_duration_of_a_step(arrivals: Arrivals) -> None:
    reported(arrivals)
    with transaction(arrivals.url) as session:
        session.execute(text("UPDATE studies SET settled_at = now() - interval '1 day'"))
    found = counted(arrivals.url)

    assert found.durations["total", "routine"].up_to[-1] == 0
    assert found.durations["write", "routine"].up_to[-1] == 1


def test_failed_job_is_counted_by_its_state(arrivals: Arrivals) -> None:
    arrivals.running_job()
    with transaction(arrivals.url) as session:
        session.execute(
            text(
                "UPDATE jobs SET state = 'failed', lease_until = NULL, finished_at = now(), reason = 'model_error',"
                " detail = ''"
            )
        )

    assert counted(arrivals.url).ended["report", "failed"] == 1


def test_time_of_an_outage_is_added_in_parts(arrivals: Arrivals) -> None:
    reported(arrivals)
    with transaction(arrivals.url) as session:
        session.execute(text("UPDATE totals_until SET until = now() - interval '150 minutes'"))
    visits = []
    for _ in range(4):
        with transaction(arrivals.url) as session:
            visits.append(totals.add_latest(session))

    assert visits[:3] == [True, True, False]
    with transaction(arrivals.url) as session:
        assert totals.read(session).ended["report", "finished"] == 1


def test_second_dispatcher_adds_nothing_beside_the_first(arrivals: Arrivals) -> None:
    reported(arrivals)
    with transaction(arrivals.url) as first:
        totals.add_latest(first)
        with transaction(arrivals.url) as second:
            assert totals.add_latest(second) is False
    with transaction(arrivals.url) as session:
        assert totals.read(session).objects == 1


def test_id_of_a_time_separates_earlier_rows_from_later_ones(arrivals: Arrivals) -> None:
    before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
    arrivals.image()
    after = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
    with transaction(arrivals.url) as session:
        (row,) = session.scalars(select(Instance.id))

    assert totals.first_id(before) < row < totals.first_id(after)
