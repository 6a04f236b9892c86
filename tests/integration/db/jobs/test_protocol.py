"""The job protocol as a state machine: any order of events, on a real PostgreSQL, against a model of a few lines."""

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
    """A claim some worker believes in; *ours* is what the model says of it."""

    claim: claims.Claim
    ours: bool = True


class Protocol(RuleBasedStateMachine):
    """Several workers, zombies among them, an operator, late images and rescuing dispatchers."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Held] = []
        self.arrivals: list[Arrivals] = []
        self.written: dict[uuid.UUID, int] = {}

    @rule()
    def a_study_arrives_and_settles(self) -> None:
        self.arrivals.append(Arrivals(self.url))
        self.arrivals[-1].image()
        self.arrivals[-1].settle()

    @rule()
    def every_worker_claims_at_once(self) -> None:
        with ThreadPoolExecutor(len(WORKERS)) as pool:
            made = [claim for claim in pool.map(self.claim, WORKERS) if claim is not None]
        taken = [held.claim.job_id for held in self.held if held.ours] + [claim.job_id for claim in made]
        assert len(taken) == len(set(taken)), "claimed twice"
        self.held += map(Held, made)

    def claim(self, worker: str) -> claims.Claim | None:
        with transaction(self.url) as session:
            return claims.claim_next(session, owner=worker, lease_seconds=3600)

    @rule(choice=st.integers(0, 99))
    def a_worker_finishes(self, choice: int) -> None:
        def finish(session: Session, claim: claims.Claim) -> None:
            claims.finish(session, claim, DRAFT)

        claim = self.use(choice, finish)
        if claim is not None:
            assert claim.job_id not in self.written, "written twice"
            self.written[claim.job_id] = claim.fence

    @rule(choice=st.integers(0, 99))
    def a_worker_fails_for_now(self, choice: int) -> None:
        def again(session: Session, claim: claims.Claim) -> None:
            claims.retry_later(session, claim, "busy", "later", pause_seconds=0, max_attempts=MAX_ATTEMPTS)

        self.use(choice, again)

    @rule(choice=st.integers(0, 99))
    def a_worker_fails_for_good(self, choice: int) -> None:
        self.use(choice, lambda session, claim: claims.fail(session, claim, "broken", "for good"))

    @rule(choice=st.integers(0, 99))
    def a_worker_is_told_to_stop(self, choice: int) -> None:
        self.use(choice, claims.give_back)

    def use(self, choice: int, end: Callable[[Session, claims.Claim], None]) -> claims.Claim | None:
        """End one of the claims workers believe in; the database must agree with the model on whose it is."""
        if not self.held:
            return None
        held = self.held[choice % len(self.held)]
        try:
            with transaction(self.url) as session:
                end(session, held.claim)
        except StaleFence:
            assert not held.ours, "an owner was taken for a zombie"
            return None
        assert held.ours, "a zombie wrote"
        held.ours = False
        return held.claim

    @rule(choice=st.integers(0, 99))
    def a_worker_dies_and_its_lease_runs_out(self, choice: int) -> None:
        alive = [held for held in self.held if held.ours]
        if not alive:
            return
        dead = alive[choice % len(alive)]
        dead.ours = False
        with transaction(self.url) as session:
            past = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
            session.execute(update(Job).where(Job.id == dead.claim.job_id).values(lease_until=past))
        with transaction(self.url) as session:
            assert claims.rescue(session, max_attempts=MAX_ATTEMPTS) == 1

    @rule(choice=st.integers(0, 99))
    def late_images_arrive(self, choice: int) -> None:
        if self.arrivals:
            late = self.arrivals[choice % len(self.arrivals)]
            late.image()
            self.lose_claims_of(late)
            late.settle()

    @rule(choice=st.integers(0, 99), order=st.sampled_from([claims.cancel, claims.retry]))
    def an_operator_orders(self, choice: int, order: Callable[[Session, lifecycle.Study], None]) -> None:
        if not self.arrivals:
            return
        chosen = self.arrivals[choice % len(self.arrivals)]
        try:
            with transaction(self.url) as session:
                order(session, lifecycle.find(session, chosen.uid, lock=True))
        except NotPossible:
            return
        self.lose_claims_of(chosen)

    def lose_claims_of(self, arrivals: Arrivals) -> None:
        with transaction(self.url) as session:
            study_id = lifecycle.find(session, arrivals.uid).id
        for held in self.held:
            held.ours = held.ours and held.claim.study_id != study_id

    @rule()
    def a_dispatcher_tells_the_workers(self) -> None:
        with transaction(self.url) as session:
            wakeups.take(session, in_queue=0, lost_after_seconds=0)

    @invariant()
    def the_law_is_kept(self) -> None:
        with transaction(self.url) as session:
            assert invariants.check(session) == []
            stored = dict(session.execute(select(Report.job_id, Report.fence)).all())
            for job in session.scalars(select(Job)):
                assert job.attempt <= MAX_ATTEMPTS
        assert {job: fence for job, fence in stored.items() if job in self.written} == self.written


@pytest.mark.timeout(120)
def test_no_order_of_events_breaks_the_protocol(database_url: str) -> None:
    Protocol.url = database_url
    run_state_machine_as_test(
        Protocol,
        settings=settings(
            max_examples=8, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
