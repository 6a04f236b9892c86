"""Canaries are in no list and no count, and two missed ones raise the alarm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, text

from db.answers import rules
from db.jobs import claims
from db.models import Study
from db.operations import alarms, heartbeats, history, outcomes, overview, progress, queue_figures
from db.operations.canaries import canaries
from db.operations.totals import totals
from db.session import transaction
from db.settings import Settings
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_claims import DRAFT

if TYPE_CHECKING:
    import uuid


@pytest.fixture
def canary(database_url: str) -> Arrivals:
    arrivals = Arrivals(database_url)
    with transaction(database_url) as session:
        canaries.begin(session, arrivals.uid)
    return arrivals


def assert_unseen(url: str) -> None:
    with transaction(url) as session:
        assert sum(overview.counts(session).values()) == 0
        assert overview.page(session, limit=10).studies == []
        assert queue_figures.waiting(session).jobs == 0
        assert queue_figures.durations(session) == {}
        assert outcomes.latest(session) == []
        history.publish(session)
        assert history.since(session, 0) == []


def study_id(arrivals: Arrivals) -> uuid.UUID:
    with transaction(arrivals.url) as session:
        return session.scalars(select(Study.id).where(Study.study_instance_uid == arrivals.uid)).one()


def test_canary_is_seen_in_none_of_its_states(canary: Arrivals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "LAG_SECONDS", -1)
    canary.image()
    assert_unseen(canary.url)
    canary.settle()
    assert_unseen(canary.url)
    claim = canary.claim()
    assert claim is not None
    assert_unseen(canary.url)
    with transaction(canary.url) as session:
        claims.finish(session, claim, DRAFT)
    assert_unseen(canary.url)
    with transaction(canary.url) as session:
        assert overview.study(session, study_id(canary)) is None
        totals.add_latest(session)
        counted = totals.read(session)
    assert (counted.objects, counted.bytes, set(counted.ended.values())) == (0, 0, {0})


@pytest.mark.parametrize("state", ["receiving", "held", "settled", "failed"])
def test_canary_of_an_earlier_day_is_not_counted(canary: Arrivals, state: str) -> None:
    canary.image()
    with transaction(canary.url) as session:
        reasons = "reason = 'identity_conflict', settle_reason = 'quiet'"
        session.execute(text(f"UPDATE studies SET state = '{state}', {reasons}"))
        session.execute(text("UPDATE studies SET first_received_at = now() - interval '2 days'"))

        assert sum(overview.counts(session).values()) == 0


def test_others_are_counted_beside_it(canary: Arrivals) -> None:
    canary.image()
    canary.settle()
    # Any sender may use the AE title of canaries: it hides nothing.
    other = Arrivals(canary.url)
    other.image(calling_ae_title="PRELIM_CANARY")

    with transaction(canary.url) as session:
        assert {state: n for state, n in overview.counts(session).items() if n} == {"receiving": 1}
        assert [line.study_instance_uid for line in overview.page(session, limit=10).studies] == [other.uid]


def test_failed_canaries_raise_no_alarm_about_studies(database_url: str) -> None:
    for _ in range(progress.FAILED_IN_A_ROW):
        arrivals = Arrivals(database_url)
        with transaction(database_url) as session:
            canaries.begin(session, arrivals.uid)
        claim = arrivals.running_job()
        with transaction(database_url) as session:
            claims.fail(session, claim, "reference_index", "the index cannot be read")

    with transaction(database_url) as session:
        assert not progress.read(session, 300).failing


def test_no_rule_of_a_site_keeps_its_report_from_a_canary(canary: Arrivals) -> None:
    canary.image()
    (job_id,) = canary.settle()
    stored = rules.parsed('[[rule]]\nname = "all"\nstore_only = "outside films"')

    with transaction(canary.url) as session:
        assert rules.apply(session, [job_id], stored) == [job_id]
    assert canary.state() == "settled"


def test_two_missed_canaries_raise_the_alarm(canary: Arrivals) -> None:
    def raised(minutes: int, **changes: int) -> list[str]:
        with transaction(canary.url) as session:
            session.execute(text(f"UPDATE canaries SET begun_at = now() - interval '{minutes} min'"))
            session.execute(text(f"UPDATE canaries SET ended_at = now() - interval '{minutes} min' WHERE problem = ''"))
            found = alarms.raised(session, Settings(**changes))
        return [alarm.detail for alarm in found if alarm.code == "canary_missed"]

    # Before the first report, the time counts from the first canary.
    assert raised(24) == []
    assert raised(26)
    with transaction(canary.url) as session:
        canaries.end(session, canary.uid, "")
    assert raised(24) == []
    assert raised(26)
    assert raised(26, canary_seconds=0) == []
    with transaction(canary.url) as session:
        canaries.begin(session, "2.25.2")
        canaries.end(session, "2.25.2", "not stored: A700 out of resources")
    assert "not stored: A700 out of resources" in raised(26)[0]


def test_canary_that_a_wrong_clock_has_dated_later_delays_no_other_and_ends_no_alarm(canary: Arrivals) -> None:
    with transaction(canary.url) as session:
        canaries.end(session, canary.uid, "")
        ahead = "now() + interval '300 days'"
        session.execute(text(f"UPDATE canaries SET begun_at = {ahead}, ended_at = {ahead}"))
        assert canaries.seconds_since_last(session) is None
        session.execute(text("UPDATE canaries SET begun_at = now() - interval '1 hour'"))
        age = progress.read(session, 1).canary
    assert age is not None
    assert age > 3000


def test_canaries_that_are_due_and_never_ran_raise_the_alarm(database_url: str) -> None:
    def raised(minutes: int, **changes: int) -> set[str]:
        with transaction(database_url) as session:
            heartbeats.record(session, heartbeats.Role.API)
            session.execute(text(f"UPDATE processes SET started_at = seen_at - interval '{minutes} min'"))
            return {alarm.code for alarm in alarms.raised(session, Settings(**changes))}

    assert "canary_missed" not in raised(24)
    assert "canary_missed" in raised(26)
    assert "canary_missed" not in raised(26, canary_seconds=0)
    assert "canary_missed" not in raised(26, canary_seconds=3600)


def test_old_rows_are_forgotten_once_their_studies_are_deleted(canary: Arrivals) -> None:
    canary.image()
    with transaction(canary.url) as session:
        canaries.begin(session, "2.25.1")
        session.execute(text("UPDATE canaries SET begun_at = now() - interval '8 days'"))
        canaries.begin(session, "2.25.2")
        session.flush()
        assert set(session.scalars(text("SELECT study_instance_uid FROM canaries"))) == {canary.uid, "2.25.2"}
