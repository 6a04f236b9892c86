"""A nudge for each of a few waiting jobs: never none for long, never a pile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from db.jobs import wakeups
from db.session import transaction

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from tests.integration.db.conftest import Arrivals


@pytest.fixture
def waiting(arrivals: Arrivals) -> Arrivals:
    """Five studies wait, and their nudges were sent an hour ago."""
    for _ in range(5):
        type(arrivals)(arrivals.url).image()
    arrivals.settle()
    with transaction(arrivals.url) as session:
        assert len(taken(session)) == 5
        session.execute(text("UPDATE jobs SET sent_at = sent_at - interval '1 hour'"))
    return arrivals


def taken(session: Session, *, in_queue: int = 0) -> Sequence[uuid.UUID]:
    return wakeups.take(session, in_queue=in_queue, lost_after_seconds=60)


def sent(url: str, *, in_queue: int) -> int:
    with transaction(url) as session:
        return len(taken(session, in_queue=in_queue))


def test_a_nudge_is_sent_once(arrivals: Arrivals) -> None:
    arrivals.image()
    arrivals.settle()
    assert [sent(arrivals.url, in_queue=0) for _ in range(2)] == [1, 0]


def test_many_waiting_jobs_need_a_few_nudges_only(arrivals: Arrivals) -> None:
    for _ in range(wakeups.MAX_MESSAGES + 3):
        type(arrivals)(arrivals.url).image()
    arrivals.settle()

    assert sent(arrivals.url, in_queue=2) == wakeups.MAX_MESSAGES - 2
    assert sent(arrivals.url, in_queue=wakeups.MAX_MESSAGES) == 0
    assert sent(arrivals.url, in_queue=0) == 5, "the others were sent a moment ago"


def test_a_job_that_waits_behind_the_nudges_of_others_is_overdue_in_time(arrivals: Arrivals) -> None:
    arrivals.image()
    arrivals.settle()
    assert sent(arrivals.url, in_queue=1) == 0
    with transaction(arrivals.url) as session:
        assert wakeups.overdue(session, after_seconds=60) == 0
        session.execute(text("UPDATE jobs SET available_at = available_at - interval '1 hour'"))
        assert wakeups.overdue(session, after_seconds=60) == 1


def test_nudges_that_still_wait_in_redis_are_not_sent_again_however_old(waiting: Arrivals) -> None:
    assert sent(waiting.url, in_queue=5) == 0
    assert sent(waiting.url, in_queue=9) == 0


def test_a_nudge_that_left_redis_and_moved_nothing_is_sent_again_soon(arrivals: Arrivals) -> None:
    arrivals.image()
    arrivals.settle()
    assert sent(arrivals.url, in_queue=0) == 1
    with transaction(arrivals.url) as session:
        session.execute(text("UPDATE jobs SET sent_at = sent_at - interval '2 seconds'"))

    assert sent(arrivals.url, in_queue=1) == 0, "it still waits there"
    assert sent(arrivals.url, in_queue=0) == 1, "a worker without a free slot may hold it, and another be idle"


def test_there_is_somebody_to_tell_only_while_a_job_waits_of_which_nobody_was_told(arrivals: Arrivals) -> None:
    def any_to_tell() -> bool:
        with transaction(arrivals.url) as session:
            return wakeups.has_unannounced(session)

    assert not any_to_tell()
    arrivals.image()
    arrivals.settle()
    assert any_to_tell()
    assert sent(arrivals.url, in_queue=0) == 1
    assert not any_to_tell()


def test_only_as_many_are_sent_again_as_are_missing(waiting: Arrivals) -> None:
    assert sent(waiting.url, in_queue=3) == 2


def test_what_was_sent_again_is_not_overdue_at_once(waiting: Arrivals) -> None:
    assert sent(waiting.url, in_queue=0) == 5
    assert sent(waiting.url, in_queue=0) == 0
    with transaction(waiting.url) as session:
        assert wakeups.overdue(session, after_seconds=60) == 0


def test_what_the_broker_did_not_take_is_sent_by_the_next_look(waiting: Arrivals) -> None:
    with transaction(waiting.url) as session:
        told = taken(session)
        wakeups.mark_unannounced(session, told[:2])

    with transaction(waiting.url) as session:
        assert set(taken(session)) == set(told[:2])


def test_a_worker_told_of_a_job_can_claim_it(arrivals: Arrivals) -> None:
    arrivals.image()
    arrivals.settle()
    with transaction(arrivals.url) as session:
        taken(session)

    assert arrivals.claim() is not None


def test_the_bell_rings_when_a_job_is_queued_and_not_before(arrivals: Arrivals) -> None:
    job_listener = wakeups.JobListener(arrivals.url)
    arrivals.image()
    assert not job_listener.wait(0.1, threading.Event())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(job_listener.wait, 30, threading.Event())
        time.sleep(0.1)
        assert not waiting.done()
        arrivals.settle()
        assert waiting.result(timeout=5)
    job_listener.close()


def test_the_bell_of_a_database_that_is_away_only_waits() -> None:
    job_listener = wakeups.JobListener("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    started = time.monotonic()
    assert not job_listener.wait(0.2, threading.Event())

    assert 0.2 <= time.monotonic() - started < 5
