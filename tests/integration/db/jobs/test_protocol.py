"""Job protocol as a state machine: any order of events on a real PostgreSQL, compared with a small model."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import select, update

from db.errors import NotPossible, StaleFence
from db.jobs import claims, wakeups
from db.jobs.rescue import rescue
from db.models import Job, Report
from db.operations import invariants
from db.session import transaction
from db.studies import lifecycle
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_claims import DRAFT

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable

    from sqlalchemy.orm import Session

MAX_ATTEMPTS = 3
WORKERS = ("worker-1", "worker-2", "worker-3")


@dataclass
class Held:
    """A claim in the hands of a worker; *valid* according to the model."""

    claim: claims.Claim
    valid: bool = True


class Protocol(RuleBasedStateMachine):
    """Workers, some of them stale, an operator, late images and dispatchers."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Held] = []
        self.arrivals: list[Arrivals] = []
        self.written: dict[uuid.UUID, int] = {}

    @rule()
    def study_arrives_and_settles(self) -> None:
        self.arrivals.append(Arrivals(self.url))
        self.arrivals[-1].image()
        self.arrivals[-1].settle()

    @rule()
    def all_workers_claim_concurrently(self) -> None:
        with ThreadPoolExecutor(len(WORKERS)) as pool:
            made = [claim for claim in pool.map(self.claim, WORKERS) if claim is not None]
        taken = [held.claim.job_id for held in self.held if held.valid] + [claim.job_id for claim in made]
        assert len(taken) == len(set(taken)), "claimed twice"
        self.held += map(Held, made)

    def claim(self, worker: str) -> claims.Claim | None:
        with transaction(self.url) as session:
            return claims.claim_next(session, owner=worker, lease_seconds=3600)

    @rule(choice=st.integers(0, 99))
    def worker_finishes(self, choice: int) -> None:
        def finish(session: Session, claim: claims.Claim) -> None:
            claims.finish(session, claim, DRAFT)

        claim = self.use(choice, finish)
        if claim is not None:
            assert claim.job_id not in self.written, "written twice"
            self.written[claim.job_id] = claim.fence

    @rule(choice=st.integers(0, 99))
    def worker_fails_transiently(self, choice: int) -> None:
        def again(session: Session, claim: claims.Claim) -> None:
            claims.retry_later(session, claim, "busy", "later", pause_seconds=0, max_attempts=MAX_ATTEMPTS)

        self.use(choice, again)

    @rule(choice=st.integers(0, 99))
    def worker_fails_permanently(self, choice: int) -> None:
        self.use(choice, lambda session, claim: claims.fail(session, claim, "broken", "for good"))

    @rule(choice=st.integers(0, 99))
    def worker_is_stopped(self, choice: int) -> None:
        self.use(choice, claims.give_back)

    def use(self, choice: int, end: Callable[[Session, claims.Claim], None]) -> claims.Claim | None:
        """End a claim; the database must accept it exactly if the model holds it for valid."""
        if not self.held:
            return None
        held = self.held[choice % len(self.held)]
        try:
            with transaction(self.url) as session:
                end(session, held.claim)
        except StaleFence:
            assert not held.valid, "a valid claim was rejected"
            return None
        assert held.valid, "a stale claim was accepted"
        held.valid = False
        return held.claim

    @rule(choice=st.integers(0, 99))
    def worker_dies_and_its_lease_expires(self, choice: int) -> None:
        alive = [held for held in self.held if held.valid]
        if not alive:
            return
        dead = alive[choice % len(alive)]
        dead.valid = False
        with transaction(self.url) as session:
            past = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
            session.execute(update(Job).where(Job.id == dead.claim.job_id).values(lease_until=past))
        assert rescue(self.url, max_attempts=MAX_ATTEMPTS) == 1

    @rule(choice=st.integers(0, 99))
    def late_images_arrive(self, choice: int) -> None:
        if self.arrivals:
            late = self.arrivals[choice % len(self.arrivals)]
            late.image()
            self.invalidate_claims_of(late)
            late.settle()

    @rule(choice=st.integers(0, 99), order=st.sampled_from([claims.cancel, claims.retry]))
    def operator_cancels_or_retries(self, choice: int, order: Callable[[Session, lifecycle.Study], None]) -> None:
        if not self.arrivals:
            return
        chosen = self.arrivals[choice % len(self.arrivals)]
        try:
            with transaction(self.url) as session:
                order(session, lifecycle.find(session, chosen.uid, lock=True))
        except NotPossible:
            return
        self.invalidate_claims_of(chosen)

    def invalidate_claims_of(self, arrivals: Arrivals) -> None:
        with transaction(self.url) as session:
            study_id = lifecycle.find(session, arrivals.uid).id
        for held in self.held:
            held.valid = held.valid and held.claim.study_id != study_id

    @rule()
    def dispatcher_announces_jobs(self) -> None:
        with transaction(self.url) as session:
            wakeups.take(session, in_queue=0, lost_after_seconds=0)

    @invariant()
    def invariants_hold(self) -> None:
        with transaction(self.url) as session:
            assert invariants.check(session) == []
            stored = dict(session.execute(select(Report.job_id, Report.fence)).all())
            for job in session.scalars(select(Job)):
                assert job.attempt <= MAX_ATTEMPTS
        assert {job: fence for job, fence in stored.items() if job in self.written} == self.written


@pytest.mark.timeout(120)
def test_every_order_of_events_keeps_the_invariants(database_url: str) -> None:
    Protocol.url = database_url
    run_state_machine_as_test(
        Protocol,
        settings=settings(
            max_examples=8, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
