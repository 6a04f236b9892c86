"""What a slot does with a message: how much it writes for it, and what it leaves to whom."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select, update

from db.jobs import claims
from db.models import Job
from db.session import transaction
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_claims import DRAFT
from tests.integration.worker.conftest import written
from worker import claim_loop

if TYPE_CHECKING:
    import uuid

    from db.reports.versions import Draft
    from db.settings import Settings
    from worker.pipeline import StudyToReport


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
    monkeypatch.setattr(claim_loop, "TURN_SECONDS", 0.0)


def answer(settings: Settings, broker: Broker, *, stopping: bool = False) -> int:
    stop = threading.Event()
    if stopping:
        stop.set()
    return claim_loop.Slots(settings).answer(written, broker.nudge, stop)


@pytest.mark.parametrize("reason", [None, claims.LEASE_EXPIRED])
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


def test_a_stop_waits_for_a_claim_that_is_under_way(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    claiming, go_on = threading.Event(), threading.Event()
    claim_next = claims.claim_next

    def slowly(*arguments: Any, **named: Any) -> claims.Claim | None:
        claiming.set()
        assert go_on.wait(30)
        return claim_next(*arguments, **named)

    monkeypatch.setattr(claims, "claim_next", slowly)
    slots = claim_loop.Slots(settings)

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
        session.execute(update(Job).where(Job.id.in_(suspects)).values(reason=claims.LEASE_EXPIRED))
    slots, running_at_once = claim_loop.Slots(settings), []

    def write(_study: StudyToReport, _moved_on: Any) -> Draft:
        # Asked of the database: a slot still holds for a moment what is finished there, while the next one is claimed.
        with transaction(database_url) as session:
            running = select(func.count()).where(Job.id.in_(suspects), Job.state == "running")
            running_at_once.append(session.scalars(running).one())
        return DRAFT

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: slots.answer(write, Broker().nudge, threading.Event()), range(8)))

    assert len(running_at_once) == 8
    assert max(running_at_once) == 1
