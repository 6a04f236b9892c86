"""Wake-up messages: enough for the waiting jobs, repeated if lost, limited in number."""

from __future__ import annotations

import threading
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
    """Five waiting studies whose messages were sent an hour ago."""
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


def test_job_is_announced_once(arrivals: Arrivals) -> None:
    arrivals.image()
    arrivals.settle()
    assert [sent(arrivals.url, in_queue=0) for _ in range(2)] == [1, 0]


def test_long_queue_has_a_limited_number_of_messages(arrivals: Arrivals) -> None:
    for _ in range(wakeups.MAX_MESSAGES + 3):
        type(arrivals)(arrivals.url).image()
    arrivals.settle()

    assert sent(arrivals.url, in_queue=2) == wakeups.MAX_MESSAGES - 2
    assert sent(arrivals.url, in_queue=wakeups.MAX_MESSAGES) == 0
    assert sent(arrivals.url, in_queue=0) == 5, "the others were just sent"


def test_unannounced_job_becomes_overdue(arrivals: Arrivals) -> None:
    arrivals.image()
    arrivals.settle()
    assert sent(arrivals.url, in_queue=1) == 0
    with transaction(arrivals.url) as session:
        assert wakeups.overdue(session, after_seconds=60, at_most=9) == 0
        session.execute(text("UPDATE jobs SET available_at = available_at - interval '1 hour'"))
        assert wakeups.overdue(session, after_seconds=60, at_most=9) == 1


def test_messages_in_redis_are_not_repeated(waiting: Arrivals) -> None:
    assert sent(waiting.url, in_queue=5) == 0
    assert sent(waiting.url, in_queue=9) == 0


def test_message_consumed_without_a_claim_is_repeated(arrivals: Arrivals) -> None:
    arrivals.image()
    arrivals.settle()
    assert sent(arrivals.url, in_queue=0) == 1
    with transaction(arrivals.url) as session:
        session.execute(text("UPDATE jobs SET sent_at = sent_at - interval '2 seconds'"))

    assert sent(arrivals.url, in_queue=1) == 0, "the message is still in Redis"
    assert sent(arrivals.url, in_queue=0) == 1, "a worker without a free slot may have prefetched it"


def test_has_unannounced_only_with_waiting_jobs(arrivals: Arrivals) -> None:
    def has_unannounced() -> bool:
        with transaction(arrivals.url) as session:
            return wakeups.has_unannounced(session)

    assert not has_unannounced()
    arrivals.image()
    arrivals.settle()
    assert has_unannounced()
    assert sent(arrivals.url, in_queue=0) == 1
    assert not has_unannounced()


def test_only_missing_messages_are_repeated(waiting: Arrivals) -> None:
    assert sent(waiting.url, in_queue=3) == 2


def test_repeated_message_is_not_overdue(waiting: Arrivals) -> None:
    assert sent(waiting.url, in_queue=0) == 5
    assert sent(waiting.url, in_queue=0) == 0
    with transaction(waiting.url) as session:
        assert wakeups.overdue(session, after_seconds=60, at_most=9) == 0


def test_message_the_broker_rejected_is_sent_again(waiting: Arrivals) -> None:
    with transaction(waiting.url) as session:
        announced = taken(session)
        wakeups.mark_unannounced(session, announced[:2])

    with transaction(waiting.url) as session:
        assert set(taken(session)) == set(announced[:2])


def test_announced_job_can_be_claimed(arrivals: Arrivals) -> None:
    arrivals.image()
    arrivals.settle()
    with transaction(arrivals.url) as session:
        taken(session)

    assert arrivals.claim() is not None


def test_listener_returns_when_a_job_is_queued(arrivals: Arrivals) -> None:
    job_listener = wakeups.JobListener(arrivals.url)
    arrivals.image()
    assert not job_listener.wait(0.1, threading.Event())
    with ThreadPoolExecutor(1) as pool:
        notified = pool.submit(job_listener.wait, 30, threading.Event())
        assert not notified.done()
        arrivals.settle()
        assert notified.result(timeout=30)
    job_listener.close()


def test_listener_without_a_database_waits() -> None:
    stop = RecordingEvent()
    assert not wakeups.JobListener("postgresql+psycopg://nobody@127.0.0.1:1/nothing").wait(1.2, stop)

    assert stop.waits == pytest.approx([wakeups.POLL_SECONDS, wakeups.POLL_SECONDS, 0.2])


def test_listener_without_a_database_returns_on_stop() -> None:
    stop = threading.Event()
    stop.set()

    assert not wakeups.JobListener("postgresql+psycopg://nobody@127.0.0.1:1/nothing").wait(600, stop)


class RecordingEvent(threading.Event):
    """Event that records the requested waits and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0)
        return self.is_set()
