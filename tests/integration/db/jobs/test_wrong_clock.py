"""Pending work that the database's clock has dated later, before it went back, goes on; what waits on purpose waits."""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select, text

from db.jobs import celery_app, claims
from db.jobs.rescue import rescue
from db.jobs.wrong_clock import date_to_now
from db.models import Commitment, Job, Process, Study
from db.models.operations import TotalsUntil, TraceExport
from db.operations import heartbeats
from db.operations.heartbeats import Role
from db.operations.totals import totals
from db.session import transaction
from db.states import JobState
from db.storage import moves
from db.studies import commitments
from dicom_listener import dispatch
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import WaitingFiles
from tests.integration.dicom_listener.listening import settings_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.db.conftest import Arrivals

LEASE = 30
AHEAD = "+ interval '300 days'"


def execute(arrivals: Arrivals, statement: str) -> None:
    with transaction(arrivals.url) as session:
        session.execute(text(statement))


def only(arrivals: Arrivals, table: type[Any]) -> Any:
    with transaction(arrivals.url) as session:
        return session.scalars(select(table)).one()


def test_study_received_under_a_wrong_clock_settles(arrivals: Arrivals) -> None:
    arrivals.image()
    execute(
        arrivals,
        f"UPDATE studies SET last_received_at = now() {AHEAD}, revision_started_at = now() {AHEAD}",
    )
    assert arrivals.settle() == []

    assert date_to_now(arrivals.url, LEASE) == {"studies": 1}
    assert len(arrivals.settle()) == 1
    assert date_to_now(arrivals.url, LEASE) == {}


def test_job_queued_under_a_wrong_clock_is_claimed_in_its_order(arrivals: Arrivals) -> None:
    arrivals.image()
    arrivals.settle()
    before = only(arrivals, Job)
    execute(
        arrivals,
        f"UPDATE jobs SET queued_at = queued_at {AHEAD}, available_at = available_at {AHEAD}, sent_at = now() {AHEAD},"
        f" urgent_at = urgent_at {AHEAD}",
    )
    assert arrivals.claim() is None

    assert date_to_now(arrivals.url, LEASE) == {"jobs": 1}
    assert (only(arrivals, Job).urgent_at - before.urgent_at).total_seconds() < 60
    assert only(arrivals, Job).sent_at is None
    assert arrivals.claim() is not None


def test_lease_under_a_wrong_clock_ends(arrivals: Arrivals) -> None:
    arrivals.running_job()
    execute(arrivals, f"UPDATE jobs SET lease_until = lease_until {AHEAD}")
    assert date_to_now(arrivals.url, LEASE) == {"leases": 1}

    execute(arrivals, "UPDATE jobs SET lease_until = lease_until - interval '1 hour'")
    assert rescue(arrivals.url, max_attempts=3) == 1
    assert only(arrivals, Job).state == JobState.QUEUED


def test_process_that_ended_under_a_wrong_clock_is_not_alive_for_long(arrivals: Arrivals) -> None:
    with transaction(arrivals.url) as session:
        session.add(Process(name="host:1", role=Role.WORKER, info={}))
    execute(arrivals, f"UPDATE processes SET seen_at = now() {AHEAD}")
    assert date_to_now(arrivals.url, LEASE) == {"processes": 1}

    execute(arrivals, "UPDATE processes SET seen_at = seen_at - interval '1 minute'")
    with transaction(arrivals.url) as session:
        assert heartbeats.alive(session, Role.WORKER) == []


def test_process_that_started_under_a_wrong_clock_has_started_before_its_next_claim(arrivals: Arrivals) -> None:
    with transaction(arrivals.url) as session:
        session.add(Process(name="host:1", role=Role.WORKER, info={}))
    execute(arrivals, f"UPDATE processes SET started_at = now() {AHEAD}")
    assert date_to_now(arrivals.url, LEASE) == {"processes": 1}

    found = only(arrivals, Process)
    assert found.started_at <= found.seen_at + dt.timedelta(seconds=1)


def test_what_ends_after_a_wrong_clock_is_counted(arrivals: Arrivals) -> None:
    execute(arrivals, f"UPDATE totals_until SET until = now() {AHEAD}")
    assert date_to_now(arrivals.url, LEASE) == {"totals": 1}
    execute(arrivals, "UPDATE totals_until SET until = until - interval '10 minutes'")

    with transaction(arrivals.url) as session:
        totals.add_latest(session)
        assert dt.datetime.now(dt.UTC) - session.scalars(select(TotalsUntil.until)).one() < dt.timedelta(minutes=5)


def test_traces_and_turn_of_a_wrong_clock_go_on(arrivals: Arrivals) -> None:
    with transaction(arrivals.url) as session:
        session.add(TraceExport(owner="host:1", lease_until=dt.datetime.now(dt.UTC)))
    execute(arrivals, f"UPDATE trace_export SET until = now() {AHEAD}, lease_until = now() {AHEAD}")
    assert date_to_now(arrivals.url, LEASE) == {"traces": 1}

    found = only(arrivals, TraceExport)
    assert (found.owner, found.lease_until) == (None, None)
    assert found.until <= dt.datetime.now(dt.UTC)


def test_file_received_under_a_wrong_clock_is_due_to_be_moved(arrivals: Arrivals) -> None:
    arrivals.image()
    execute(arrivals, f"UPDATE instances SET storage_due_at = now() {AHEAD}")
    assert date_to_now(arrivals.url, LEASE) == {"moves": 1}

    with transaction(arrivals.url) as session:
        assert moves.waiting(session).set_aside == 0
    # One that is set aside for a cause of its own waits.
    execute(arrivals, f"UPDATE instances SET storage_due_at = now() + interval '{moves.SET_ASIDE.total_seconds()} s'")
    assert date_to_now(arrivals.url, LEASE) == {}


def test_result_of_storage_commitment_is_due_after_a_wrong_clock(arrivals: Arrivals) -> None:
    with transaction(arrivals.url) as session:
        now = dt.datetime.now(dt.UTC)
        names = {
            "transaction_uid": "1.2",
            "calling_ae_title": "CT1",
            "called_ae_title": "PRELIM",
            "association_id": "1",
        }
        session.add(Commitment(id=uuid.uuid4(), requested=[], received_at=now, attempts=0, **names))
    execute(arrivals, f"UPDATE commitments SET due_at = now() {AHEAD}")
    assert date_to_now(arrivals.url, LEASE) == {"commitments": 1}

    with transaction(arrivals.url) as session:
        assert commitments.take_due(session) is not None


@pytest.mark.parametrize("lease_seconds", [LEASE, 7200])
def test_pauses_and_leases_stay(arrivals: Arrivals, lease_seconds: int) -> None:
    arrivals.image()
    arrivals.settle()
    longest = claims.MAX_PAUSE_SECONDS * (1 + claims.JITTER)
    execute(arrivals, f"UPDATE jobs SET available_at = now() + make_interval(secs => {longest})")
    assert date_to_now(arrivals.url, lease_seconds) == {}

    execute(arrivals, "UPDATE jobs SET available_at = now()")
    with transaction(arrivals.url) as session:
        assert claims.claim_next(session, owner="test", lease_seconds=lease_seconds)
    assert date_to_now(arrivals.url, lease_seconds) == {}


def test_dispatcher_dates_to_now_what_is_dated_later(
    arrivals: Arrivals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals.image()
    execute(arrivals, f"UPDATE studies SET last_received_at = now() {AHEAD}")
    settings = settings_for(tmp_path, database_url=SecretStr(arrivals.url))
    monkeypatch.setattr(dispatch, "announce", lambda *_: 1)
    upkeep = dispatch.QueueUpkeep(
        settings, celery_app.make_app("redis://127.0.0.1:1/0"), WaitingFiles(Spool(settings.spool)), threading.Event()
    )
    upkeep.run_once()
    upkeep.close()

    with transaction(arrivals.url) as session:
        assert session.scalar(select(Study.last_received_at <= text("now()")))
