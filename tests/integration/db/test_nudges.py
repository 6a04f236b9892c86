"""One nudge for each waiting job: never none for long, never a pile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from db import nudges
from db.session import transaction

if TYPE_CHECKING:
    from tests.integration.db.conftest import Arrivals


@pytest.fixture
def waiting(arrivals: Arrivals) -> Arrivals:
    """Five studies wait, and their nudges were sent an hour ago."""
    for _ in range(5):
        type(arrivals)(arrivals.url).image()
    arrivals.settle()
    with transaction(arrivals.url) as session:
        assert len(nudges.take_unsent(session)) == 5
        session.execute(text("UPDATE jobs SET sent_at = sent_at - interval '1 hour'"))
    return arrivals


def lost(url: str, *, in_queue: int) -> int:
    with transaction(url) as session:
        return len(nudges.take_lost(session, after_seconds=60, in_queue=in_queue))


def test_a_nudge_is_sent_once(waiting: Arrivals) -> None:
    with transaction(waiting.url) as session:
        assert nudges.take_unsent(session) == []


def test_nudges_that_still_wait_in_redis_are_not_sent_again_however_old(waiting: Arrivals) -> None:
    assert lost(waiting.url, in_queue=5) == 0
    assert lost(waiting.url, in_queue=9) == 0


def test_only_as_many_are_sent_again_as_are_missing(waiting: Arrivals) -> None:
    assert lost(waiting.url, in_queue=3) == 2


def test_what_was_sent_again_is_not_overdue_at_once(waiting: Arrivals) -> None:
    assert lost(waiting.url, in_queue=0) == 5
    assert lost(waiting.url, in_queue=0) == 0
    with transaction(waiting.url) as session:
        assert nudges.overdue(session, after_seconds=60) == 0


def test_what_the_broker_did_not_take_is_sent_by_the_next_look(waiting: Arrivals) -> None:
    with transaction(waiting.url) as session:
        taken = nudges.take_lost(session, after_seconds=60, in_queue=0)
        nudges.not_sent(session, taken[:2])

    with transaction(waiting.url) as session:
        assert set(nudges.take_unsent(session)) == set(taken[:2])


def test_a_worker_told_of_a_job_can_claim_it(arrivals: Arrivals) -> None:
    arrivals.image()
    arrivals.settle()
    with transaction(arrivals.url) as session:
        nudges.take_unsent(session)

    assert arrivals.claim() is not None


def test_the_bell_rings_when_a_job_is_queued_and_not_before(arrivals: Arrivals) -> None:
    bell = nudges.Bell(arrivals.url)
    arrivals.image()
    assert not bell.rings_within(0.1, threading.Event())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(bell.rings_within, 30, threading.Event())
        time.sleep(0.1)
        assert not waiting.done()
        arrivals.settle()
        assert waiting.result(timeout=5)
    bell.close()


def test_the_bell_of_a_database_that_is_away_only_waits() -> None:
    bell = nudges.Bell("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    started = time.monotonic()
    assert not bell.rings_within(0.2, threading.Event())

    assert 0.2 <= time.monotonic() - started < 5
