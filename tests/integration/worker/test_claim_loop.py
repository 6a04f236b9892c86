"""One wake-up message: the attempts made for it, and the jobs left to another message."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from sqlalchemy import select, update

from db import logs
from db.errors import PermanentFailure, Reason
from db.jobs import claims, poison_turns
from db.models import Job
from db.session import transaction
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_claims import DRAFT
from tests.integration.worker.conftest import written
from worker import claim_loop
from worker.claim_loop import ClaimLoop, JobFailed

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator

    from db.reports.versions import Draft
    from db.settings import Settings
    from worker.pipeline.pipeline import StudyToReport


class Broker:
    """Takes wake-up messages while it is reachable."""

    def __init__(self, *, reachable: bool = True) -> None:
        self.reachable = reachable
        self.messages: list[uuid.UUID] = []

    def wake(self, job_id: uuid.UUID) -> bool:
        if self.reachable:
            self.messages.append(job_id)
        return self.reachable


@pytest.fixture
def long_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every report takes longer than one message may be used for."""
    monkeypatch.setattr(claim_loop, "DRAIN_SECONDS", 0.0)


def drain(settings: Settings, broker: Broker, *, stopping: bool = False) -> int:
    stop = threading.Event()
    if stopping:
        stop.set()
    return ClaimLoop(settings).drain(written, broker.wake, stop)


@pytest.mark.parametrize("reason", [None, Reason.LEASE_EXPIRED])
def test_one_message_serves_all_short_jobs(database_url: str, settings: Settings, reason: str | None) -> None:
    studies = waiting_studies(database_url, 3)
    with transaction(database_url) as session:
        session.execute(update(Job).values(reason=reason))
    broker = Broker()
    assert drain(settings, broker) == 3

    assert [study.state() for study in studies] == ["reported"] * 3
    assert broker.messages == []


@pytest.mark.usefixtures("long_reports")
def test_next_job_after_a_long_report_gets_its_own_message(database_url: str, settings: Settings) -> None:
    waiting_studies(database_url, 2)
    broker = Broker()
    assert drain(settings, broker) == 1
    assert broker.messages == [waiting_job(database_url)]

    assert drain(settings, broker) == 1
    assert len(broker.messages) == 1, "no job waits any more"


@pytest.mark.usefixtures("long_reports")
def test_worker_continues_without_messages_while_the_broker_is_away(database_url: str, settings: Settings) -> None:
    waiting_studies(database_url, 3)
    assert drain(settings, Broker(reachable=False)) == 3


def test_stopping_worker_leaves_waiting_jobs_to_another(database_url: str, settings: Settings) -> None:
    waiting_studies(database_url, 2)
    broker = Broker()
    assert drain(settings, broker, stopping=True) == 1
    assert broker.messages == [waiting_job(database_url)]
    assert drain(settings, Broker(reachable=False), stopping=True) == 1


@pytest.mark.parametrize("reachable", [True, False])
def test_failed_job_is_the_last_of_its_message_and_fails_its_task(
    database_url: str, settings: Settings, reachable: bool
) -> None:
    studies = waiting_studies(database_url, 2)
    broker, outcomes = Broker(reachable=reachable), iter([PermanentFailure(Reason.MODEL_ERROR, "out of memory")])

    def write(_study: StudyToReport, _on_progress: Any) -> Draft:
        for outcome in outcomes:
            raise outcome
        return DRAFT

    with pytest.raises(JobFailed, match="^model_error: job [0-9a-f-]{36}$"):
        ClaimLoop(settings).drain(write, broker.wake, threading.Event())

    if reachable:
        assert broker.messages == [waiting_job(database_url)]
    else:
        assert sorted(study.state() for study in studies) == ["failed", "reported"]


def waiting_job(url: str) -> uuid.UUID:
    with transaction(url) as session:
        return session.scalars(select(Job.id).where(Job.state == "queued")).one()


def waiting_studies(url: str, count: int) -> list[Arrivals]:
    studies = [Arrivals(url) for _ in range(count)]
    for study in studies:
        study.image()
        study.settle()
    return studies


def test_stop_waits_for_a_claim_in_progress(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    claiming, go_on = threading.Event(), threading.Event()
    claim_next = claims.claim_next

    def slowly(*arguments: Any, **named: Any) -> claims.Claim | None:
        claiming.set()
        assert go_on.wait(30)
        return claim_next(*arguments, **named)

    monkeypatch.setattr(claims, "claim_next", slowly)
    jobs = ClaimLoop(settings)

    def serve() -> None:
        with jobs.serving():
            jobs.run_once(written)

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve)
        assert claiming.wait(30)
        assert jobs.busy
        go_on.set()
        serving.result()
    assert not jobs.busy
    assert arrivals.state() == "reported"


def test_claims_run_in_parallel_and_poison_candidates_alone(database_url: str, settings: Settings) -> None:
    waiting_studies(database_url, 8)
    candidates = make_candidates(database_url, 4)
    jobs, beside = ClaimLoop(settings), []

    def write(_study: StudyToReport, _on_progress: Any) -> Draft:
        # From the database: a thread still holds a finished job for a moment while the next one is claimed.
        with transaction(database_url) as session:
            running = session.scalars(select(Job.id).where(Job.state == "running")).all()
            beside.append((bool(candidates & set(running)), len(running)))
        return DRAFT

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: jobs.drain(write, Broker().wake, threading.Event()), range(8)))

    assert len(beside) == 8
    assert {count for is_candidate, count in beside if is_candidate} == {1}


def make_candidates(url: str, count: int) -> set[uuid.UUID]:
    """Turn the first waiting jobs into poison candidates."""
    with transaction(url) as session:
        chosen = session.scalars(select(Job.id).order_by(Job.urgent_at).limit(count)).all()
        session.execute(update(Job).where(Job.id.in_(chosen)).values(reason=Reason.LEASE_EXPIRED))
    return set(chosen)


@pytest.mark.parametrize(("turn_seconds", "first"), [(0.0, True), (30.0, False)])
def test_candidate_is_written_alone_at_its_turn_although_other_jobs_wait(
    database_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, turn_seconds: float, first: bool
) -> None:
    monkeypatch.setattr(poison_turns, "TURN_SECONDS", turn_seconds)
    waiting_studies(database_url, 3)
    candidates, order = make_candidates(database_url, 1), []

    def write(_study: StudyToReport, _on_progress: Any) -> Draft:
        with transaction(database_url) as session:
            order.extend(session.scalars(select(Job.id).where(Job.state == "running")))
        return DRAFT

    assert ClaimLoop(settings).drain(write, Broker().wake, threading.Event()) == 3
    assert order[0 if first else -1] in candidates


def test_process_becomes_idle_for_a_candidate_and_then_takes_other_jobs(
    database_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poison_turns, "TURN_SECONDS", 0.5)
    monkeypatch.setattr(poison_turns, "LOOK_SECONDS", 0.1)
    # Otherwise a message whose second has passed leaves the last job to another one.
    monkeypatch.setattr(claim_loop, "DRAIN_SECONDS", 60.0)
    waiting_studies(database_url, 3)
    candidates = make_candidates(database_url, 1)
    jobs, go_on, began = ClaimLoop(settings), threading.Event(), threading.Event()
    running: list[set[uuid.UUID]] = []

    def write(_study: StudyToReport, _on_progress: Any) -> Draft:
        with transaction(database_url) as session:
            running.append(set(session.scalars(select(Job.id).where(Job.state == "running"))))
        began.set()
        assert go_on.wait(30)
        return DRAFT

    with ThreadPoolExecutor(2) as pool:
        slots = [pool.submit(jobs.drain, write, Broker().wake, threading.Event())]
        assert began.wait(30)
        time.sleep(1)
        slots.append(pool.submit(jobs.drain, write, Broker().wake, threading.Event()))
        time.sleep(0.5)
        assert len(running) == 1, "it waits for the process to become idle"
        go_on.set()
        assert sum(slot.result(timeout=30) for slot in slots) == 3

    assert running[1] == candidates
    assert not running[0] & candidates


def test_thread_that_waits_for_a_candidate_ends_at_a_stop(
    database_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting_studies(database_url, 2)
    make_candidates(database_url, 1)
    monkeypatch.setattr(poison_turns, "TURN_SECONDS", 0.0)
    jobs, stop = ClaimLoop(settings), threading.Event()
    began, go_on = threading.Event(), threading.Event()

    def write(_study: StudyToReport, _on_progress: Any) -> Draft:
        began.set()
        assert go_on.wait(30)
        return DRAFT

    with ThreadPoolExecutor(2) as pool:
        pool.submit(jobs.drain, write, Broker().wake, stop)
        assert began.wait(30)
        waiting = pool.submit(jobs.drain, write, Broker().wake, stop)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
        stop.set()
        assert waiting.result(timeout=30) == 0
        go_on.set()


@pytest.fixture
def log_lines(settings: Settings) -> Iterator[io.StringIO]:
    """Lines of the standard library's loggers, rendered as a worker renders them."""
    root, lines = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    logs.configure(settings.replace(log_format="json", log_level="info"))
    # A cached logger would keep this configuration for the tests after this one.
    structlog.configure(cache_logger_on_first_use=False)
    root.handlers[0].setStream(lines)  # type: ignore[attr-defined]
    yield lines
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_library_log_lines_of_an_attempt_carry_its_ids(
    arrivals: Arrivals, settings: Settings, log_lines: io.StringIO
) -> None:
    def write(_study: StudyToReport, _on_progress: Any) -> Draft:
        logging.getLogger("a.library").warning("slow")
        return DRAFT

    ClaimLoop(settings).run_once(write)
    logging.getLogger("a.library").warning("idle")

    during, after = (
        line for line in map(json.loads, log_lines.getvalue().splitlines()) if line["event"] in ("slow", "idle")
    )
    with transaction(arrivals.url) as session:
        job = session.scalars(select(Job)).one()
    ids = {"job_id": str(job.id), "study_id": str(job.study_id), "fence": 1, "attempt": 1}
    assert during.items() >= ids.items()
    assert not ids.keys() & after.keys()


@pytest.mark.usefixtures("arrivals")
def test_ids_of_an_attempt_do_not_reach_other_threads(settings: Settings) -> None:
    elsewhere: list[dict[str, Any]] = []

    def write(_study: StudyToReport, _on_progress: Any) -> Draft:
        other = threading.Thread(target=lambda: elsewhere.append(structlog.contextvars.get_contextvars()))
        other.start()
        other.join()
        assert structlog.contextvars.get_contextvars()["attempt"] == 1
        return DRAFT

    ClaimLoop(settings).run_once(write)

    assert elsewhere == [{}]
    assert structlog.contextvars.get_contextvars() == {}
