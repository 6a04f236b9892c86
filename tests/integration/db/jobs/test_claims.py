"""Job protocol on a real PostgreSQL."""

from __future__ import annotations

import datetime as dt
import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError

from db.errors import NotPossible, StaleFence
from db.jobs import claims, poison_turns, wakeups
from db.jobs.rescue import rescue
from db.models import Job, Report
from db.reports import versions
from db.session import transaction
from db.studies import lifecycle, revisions
from db.studies.lifecycle import StudyAttributes
from db.studies.priority import ROUTINE, STAT
from tests.polling import wait_until

if TYPE_CHECKING:
    import uuid

    from tests.integration.db.conftest import Arrivals

DRAFT = versions.Draft(
    findings="No effusion.",
    impression="Normal.",
    basis="1 of 1 images",
    prompt_version="1",
    model_digest="d",
    provenance={},
    images=[versions.Shown(png=b"png", sop_instance_uid="2.25.1", frame=0, reason="only image", transform={})],
)


def finish(url: str, claim: claims.Claim) -> None:
    with transaction(url) as session:
        claims.finish(session, claim, DRAFT)


def lose_worker(arrivals: Arrivals, claim: claims.Claim, *, max_attempts: int = 3) -> None:
    expire_lease(arrivals.url, claim.job_id)
    assert rescue(arrivals.url, max_attempts=max_attempts) == 1


def expire_lease(url: str, job_id: uuid.UUID) -> None:
    with transaction(url) as session:
        past = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=past))


def test_finished_job_has_a_report(arrivals: Arrivals) -> None:
    claim = arrivals.running_job()
    finish(arrivals.url, claim)

    assert arrivals.state() == "reported"
    with transaction(arrivals.url) as session:
        report = versions.current(session, claim.study_id)
        assert report is not None
        assert (report.version, report.revision, report.fence) == (1, 1, claim.fence)


def test_claimed_job_cannot_be_claimed_again(arrivals: Arrivals) -> None:
    arrivals.running_job()

    assert arrivals.claim() is None


def test_concurrent_workers_claim_each_job_once(arrivals: Arrivals, database_url: str) -> None:
    for _ in range(400):
        type(arrivals)(database_url).image()
    while arrivals.settle():
        pass

    def claim_all(_: int) -> list[uuid.UUID]:
        return [claim.job_id for claim in iter(arrivals.claim, None)]

    with ThreadPoolExecutor(8) as pool:
        claimed = list(itertools.chain.from_iterable(pool.map(claim_all, range(8))))

    assert len(claimed) == len(set(claimed)) == 400


def test_job_with_expired_lease_goes_to_another_worker(arrivals: Arrivals) -> None:
    stale = arrivals.running_job()
    lose_worker(arrivals, stale)
    successor = arrivals.claim()
    assert successor is not None

    with pytest.raises(StaleFence):
        finish(arrivals.url, stale)
    finish(arrivals.url, successor)

    with transaction(arrivals.url) as session:
        assert [report.fence for report in session.scalars(select(Report))] == [successor.fence]


def test_stale_worker_cannot_finish_a_finished_job(arrivals: Arrivals) -> None:
    stale = arrivals.running_job()
    lose_worker(arrivals, stale)
    successor = arrivals.claim()
    assert successor is not None
    finish(arrivals.url, successor)

    with pytest.raises(StaleFence):
        finish(arrivals.url, stale)


def test_same_fence_given_twice_is_two_claims(arrivals: Arrivals) -> None:
    """As by a promoted standby that lacks the last claim."""
    lost = arrivals.running_job()
    with transaction(arrivals.url) as session:
        session.execute(update(Job).values(state="queued", lease_until=None, owner=None, fence=0, attempt=0))
    successor = arrivals.claim()
    assert successor is not None
    assert (successor.fence, successor.attempt) == (lost.fence, lost.attempt)

    with pytest.raises(StaleFence):
        finish(arrivals.url, lost)
    for write in (claims.give_back, lambda session, claim: claims.extend_lease(session, claim, lease_seconds=30)):
        with pytest.raises(StaleFence), transaction(arrivals.url) as session:
            write(session, lost)
    finish(arrivals.url, successor)


def test_lease_of_a_superseded_job_cannot_be_extended(arrivals: Arrivals) -> None:
    claim = arrivals.running_job()
    arrivals.image()

    with pytest.raises(StaleFence), transaction(arrivals.url) as session:
        claims.extend_lease(session, claim, lease_seconds=30)


def test_superseded_job_cannot_finish_and_takes_no_version(arrivals: Arrivals) -> None:
    old = arrivals.running_job()
    arrivals.image()
    with pytest.raises(StaleFence):
        finish(arrivals.url, old)
    arrivals.settle()
    new = arrivals.claim()
    assert new is not None
    finish(arrivals.url, new)

    with transaction(arrivals.url) as session:
        assert [(r.version, r.revision) for r in session.scalars(select(Report))] == [(1, 2)]


def test_transient_failure_delays_the_next_attempt(arrivals: Arrivals) -> None:
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        claims.retry_later(session, claim, "busy", "later", pause_seconds=60, max_attempts=3)

    assert arrivals.claim() is None
    assert arrivals.state() == "settled"


def test_last_transient_failure_fails_the_job_with_its_attempts(arrivals: Arrivals) -> None:
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        claims.retry_later(session, claim, "busy", "later", pause_seconds=60, max_attempts=1)

    assert arrivals.state() == "failed"
    with transaction(arrivals.url) as session:
        assert session.get_one(Job, claim.job_id).detail == "later (after 1 attempts)"


def test_rescue_queues_the_job_of_a_dead_worker_again(arrivals: Arrivals) -> None:
    claim = arrivals.running_job()
    lose_worker(arrivals, claim)

    with transaction(arrivals.url) as session:
        assert wakeups.take(session, in_queue=0, lost_after_seconds=60) == [claim.job_id]


def test_study_that_kills_every_worker_ends_as_failed(arrivals: Arrivals) -> None:
    claim = arrivals.running_job()
    lose_worker(arrivals, claim, max_attempts=1)

    assert arrivals.state() == "failed"
    assert arrivals.claim() is None


def set_heartbeat(url: str, *, seen: str, started: str) -> None:
    """Insert the heartbeat of the worker that claims in these tests, *seen* and *started* relative to now."""
    values = "'test', 'worker', now() + CAST(:started AS interval), now() + CAST(:seen AS interval), '{}'"
    insert = f"INSERT INTO processes (name, role, started_at, seen_at, info) VALUES ({values})"
    with transaction(url) as session:
        session.execute(text(insert), {"started": started, "seen": seen})


@pytest.mark.parametrize(
    ("seen", "started", "end"),
    [
        ("-31 seconds", "-1 hour", (1, "worker_lost")),
        # Another process with the name of the dead one.
        ("-1 second", "0 seconds", (1, "worker_lost")),
        ("-1 second", "-1 hour", (1, "lease_expired")),
        # The last heartbeat is older than the end of the lease, but not old enough for a dead worker.
        ("-10 seconds", "-1 hour", (0, None)),
    ],
)
def test_worker_counts_as_lost_only_without_a_heartbeat(
    arrivals: Arrivals, seen: str, started: str, end: tuple[int, str | None]
) -> None:
    claim = arrivals.running_job()
    set_heartbeat(arrivals.url, seen=seen, started=started)
    with transaction(arrivals.url) as session:
        ended = func.now() - dt.timedelta(seconds=5)
        session.execute(update(Job).where(Job.id == claim.job_id).values(lease_until=ended))

    rescued = rescue(arrivals.url, max_attempts=1)
    with transaction(arrivals.url) as session:
        assert (rescued, session.get_one(Job, claim.job_id).reason) == end


def test_job_whose_report_is_being_stored_is_not_rescued(arrivals: Arrivals) -> None:
    claim = arrivals.running_job()
    expire_lease(arrivals.url, claim.job_id)

    with transaction(arrivals.url) as storing:
        claims.finish(storing, claim, DRAFT)
        # Without waiting: a lock timeout would raise.
        assert rescue(arrivals.url, max_attempts=1) == 0

    assert arrivals.state() == "reported"


def test_poison_candidates_run_one_at_a_time_and_beside_nothing(arrivals: Arrivals, database_url: str) -> None:
    others = [type(arrivals)(database_url) for _ in range(3)]
    for claim in [study.running_job() for study in others]:
        lose_worker(arrivals, claim)

    candidate = arrivals.claim()
    assert candidate is not None
    assert candidate.poison_candidate
    arrivals.image()
    arrivals.settle()
    assert arrivals.claim() is None
    fresh = claim_as(database_url, "another worker")
    assert fresh is not None
    finish(database_url, candidate)
    assert arrivals.claim() is not None


def test_process_takes_a_poison_candidate_only_when_it_runs_nothing(arrivals: Arrivals, database_url: str) -> None:
    lose_worker(arrivals, arrivals.running_job())
    fresh = type(arrivals)(database_url)
    fresh.image()
    fresh.settle()

    with transaction(database_url) as session:
        beside = claims.claim_next(session, owner="test", lease_seconds=30, poison_candidates=False)
        assert poison_turns.candidate_waits(session)
    assert beside is not None
    assert not beside.poison_candidate
    assert arrivals.claim() is None
    finish(database_url, beside)
    assert arrivals.claim() is not None


def test_claims_of_an_earlier_process_with_the_same_name_do_not_count(arrivals: Arrivals, database_url: str) -> None:
    for claim in [type(arrivals)(database_url).running_job() for _ in range(2)]:
        lose_worker(arrivals, claim)
    assert arrivals.claim() is not None
    assert arrivals.claim() is None

    set_heartbeat(database_url, seen="0 seconds", started="0 seconds")

    assert arrivals.claim() is not None


def claim_as(url: str, owner: str) -> claims.Claim | None:
    with transaction(url) as session:
        return claims.claim_next(session, owner=owner, lease_seconds=30)


@pytest.mark.parametrize("seed", range(2))
def test_poison_studies_in_a_row_fail_no_other_study(arrivals: Arrivals, database_url: str, seed: int) -> None:
    """Four slots of one process that dies whenever a poison study ends first."""
    rng = random.Random(seed)
    poison = set()
    for is_poison in rng.sample([True] * 6 + [False] * 12, 18):
        study = type(arrivals)(database_url)
        study.image()
        jobs = study.settle()
        poison |= set(jobs if is_poison else [])

    running: list[claims.Claim] = []
    while True:
        while len(running) < 4 and (claim := arrivals.claim()) is not None:
            running.append(claim)
        if not running:
            break
        ends = rng.choice(running)
        if ends.job_id in poison:
            for claim in running:
                lose_worker(arrivals, claim)
            running = []
        else:
            finish(database_url, ends)
            running.remove(ends)

    with transaction(database_url) as session:
        failed = session.scalars(select(Job.id).where(Job.state == "failed")).all()
        assert set(failed) == poison
        others = session.scalar(select(func.max(Job.attempt)).where(Job.state == "finished"))
        assert others == 2, "at most one attempt is lost beside a study that is not yet a candidate"
        assert session.scalar(select(func.count()).where(Job.state == "finished")) == 12


def test_job_given_back_keeps_its_attempts(arrivals: Arrivals) -> None:
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        claims.give_back(session, claim)

    again = arrivals.claim()

    assert again is not None
    assert (again.attempt, again.fence) == (1, 2)
    with pytest.raises(StaleFence):
        finish(arrivals.url, claim)


def test_rescue_ignores_a_valid_lease(arrivals: Arrivals) -> None:
    arrivals.running_job()

    assert rescue(arrivals.url, max_attempts=3) == 0


def test_stat_study_precedes_routine_studies(arrivals: Arrivals, database_url: str) -> None:
    arrivals.image()
    arrivals.settle()
    stat = type(arrivals)(database_url)
    stat.image(study=StudyAttributes(stat.uid, priority=STAT))
    (urgent,) = stat.settle()

    first = arrivals.claim()

    assert first is not None
    assert first.job_id == urgent


def test_stat_study_precedes_routine_ones_that_have_waited_for_days(arrivals: Arrivals, database_url: str) -> None:
    arrivals.image()
    arrivals.settle()
    with transaction(arrivals.url) as session:
        session.execute(update(Job).values(urgent_at=Job.urgent_at - dt.timedelta(days=3)))
    stat = type(arrivals)(database_url)
    stat.image(study=StudyAttributes(stat.uid, priority=STAT))
    (urgent,) = stat.settle()

    first = arrivals.claim()

    assert first is not None
    assert first.job_id == urgent


def test_routine_turn_leaves_urgent_jobs(arrivals: Arrivals, database_url: str) -> None:
    stat = type(arrivals)(database_url)
    stat.image(study=StudyAttributes(stat.uid, priority=STAT))
    stat.settle()
    with transaction(database_url) as session:
        assert claims.claim_next(session, owner="test", lease_seconds=30, routine_only=True) is None
    arrivals.image()
    (routine,) = arrivals.settle()
    with transaction(database_url) as session:
        claim = claims.claim_next(session, owner="test", lease_seconds=30, routine_only=True)

    assert claim is not None
    assert (claim.job_id, claim.priority) == (routine, ROUTINE)


def test_worker_of_a_cancelled_job_cannot_finish(arrivals: Arrivals) -> None:
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        claims.cancel(session, lifecycle.find(session, arrivals.uid, lock=True))

    assert arrivals.state() == "cancelled"
    with pytest.raises(StaleFence):
        finish(arrivals.url, claim)


def test_retried_study_has_all_its_attempts(arrivals: Arrivals) -> None:
    lose_worker(arrivals, arrivals.running_job(), max_attempts=1)
    with transaction(arrivals.url) as session:
        claims.retry(session, lifecycle.find(session, arrivals.uid, lock=True))

    again = arrivals.claim()

    assert again is not None
    assert again.attempt == 1
    finish(arrivals.url, again)
    assert arrivals.state() == "reported"


def test_reported_study_cannot_be_retried_or_cancelled(arrivals: Arrivals) -> None:
    finish(arrivals.url, arrivals.running_job())

    for order in (claims.retry, claims.cancel):
        with pytest.raises(NotPossible, match="reported"), transaction(arrivals.url) as session:
            order(session, lifecycle.find(session, arrivals.uid, lock=True))


def test_stored_report_is_immutable(arrivals: Arrivals) -> None:
    finish(arrivals.url, arrivals.running_job())

    with pytest.raises(DBAPIError, match="immutable"), transaction(arrivals.url) as session:
        session.execute(update(Report).values(findings="other"))


def test_finish_waits_for_the_lock_of_the_study(arrivals: Arrivals) -> None:
    claim = arrivals.running_job()
    with ThreadPoolExecutor(1) as pool:
        with transaction(arrivals.url) as session:
            lifecycle.find(session, arrivals.uid, lock=True).priority = STAT
            session.flush()
            finishing = pool.submit(finish, arrivals.url, claim)
            wait_until(lambda: lock_is_awaited(arrivals.url))
        finishing.result(timeout=30)

    assert arrivals.state() == "reported"


def test_finish_after_late_images_is_stale(arrivals: Arrivals) -> None:
    claim = arrivals.running_job()
    with ThreadPoolExecutor(1) as pool:
        with transaction(arrivals.url) as session:
            study = lifecycle.find(session, arrivals.uid, lock=True)
            revisions.reopen(session, study)
            session.flush()
            finishing = pool.submit(finish, arrivals.url, claim)
            wait_until(lambda: lock_is_awaited(arrivals.url))
        with pytest.raises(StaleFence):
            finishing.result(timeout=30)

    assert arrivals.state() == "receiving"
    with transaction(arrivals.url) as session:
        assert session.scalars(select(Report)).all() == []


def lock_is_awaited(url: str) -> bool:
    with transaction(url) as session:
        return bool(session.scalar(text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")))
