"""Claim waiting jobs one after the other and make an attempt at each."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import structlog

from db.errors import PrelimError, Reason, StaleFence
from db.jobs import claims, poison_turns, wakeups
from db.jobs.class_share import ClassShare
from db.operations import heartbeats
from db.session import statements, transaction
from worker.attempt import Attempt

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterator

    from db.settings import Settings
    from worker.attempt import Outcome, Write

    #: Sends a wake-up message for a job; returns whether the broker took it.
    Wake = Callable[[uuid.UUID], bool]

log = structlog.get_logger()

#: Seconds for which one message may be used, for any number of reports. A real report takes longer and so has a task of
#: its own for Flower to show; a worker that no longer receives messages runs out of work, by which it is detected.
DRAIN_SECONDS = 1.0
#: Longest pause before a thread that waits for a poison candidate looks again, in seconds.
WAIT_SECONDS = 0.5


class JobFailed(PrelimError):
    """Raised when a job has failed; the text is its reason code and id, for Celery's record of the task."""


class ClaimLoop:
    """The jobs of one worker process: claims them for any number of threads, and can return them all."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = settings.database()
        self._turns = poison_turns.PoisonTurns(self._candidate_waits)
        self._share = ClassShare()
        #: Set when an attempt ends: the process may have become idle.
        self._attempt_ended = threading.Event()
        self._held: dict[claims.Claim, Attempt] = {}
        self._serving: set[int] = set()
        self._gpu_lost = False

    def drain(self, write: Write, wake: Wake, stopping: threading.Event) -> int:
        """Make attempts while any job waits and the message's time lasts; return how many.

        The remaining jobs are left to another message, sent by *wake* before this one ends, so that a waiting job
        always has a message. If the broker does not accept it, work continues under this message. Raises JobFailed if
        a job has failed; it is the last one of its message.
        """
        ends_at = time.monotonic() + DRAIN_SECONDS
        attempts, failed = 0, None
        while (attempt := self._claim(stopping)) is not None:
            outcome = self._run(attempt, write)
            attempts += 1
            if outcome == "failed":
                failed = JobFailed(f"{attempt.reason}: job {attempt.claim.job_id}")
            over = stopping.is_set() or failed is not None or time.monotonic() > ends_at
            if over and (self._left_to_others(wake) or stopping.is_set()):
                break
        if failed is not None:
            raise failed
        return attempts

    def _left_to_others(self, wake: Wake) -> bool:
        with statements(self._url) as session:
            waiting = wakeups.next_waiting(session)
        return waiting is None or wake(waiting)

    def run_once(self, write: Write) -> Outcome | None:
        """Claim a job and make one attempt at it; return the outcome, or None if no job waits."""
        attempt = self._try_to_claim()
        return None if attempt is None else self._run(attempt, write)

    def _run(self, attempt: Attempt, write: Write) -> Outcome:
        claim = attempt.claim
        ids = {"job_id": str(claim.job_id), "kind": claim.kind, "study_id": str(claim.study_id)}
        # On every log line of this thread, those of libraries too.
        with structlog.contextvars.bound_contextvars(**ids, fence=claim.fence, attempt=claim.attempt):
            try:
                outcome = attempt.execute(write)
            finally:
                self._held.pop(claim, None)
                self._attempt_ended.set()
            # The watchdog ends the process: until then, it would use up an attempt of each job that it claims.
            self._gpu_lost = self._gpu_lost or attempt.reason == Reason.GPU_LOST
            log.info("attempt.finished", outcome=outcome, reason=attempt.reason)
        return outcome

    def _claim(self, stopping: threading.Event) -> Attempt | None:
        """Claim a job; None if none waits. Waits while a poison candidate runs, or is due, in this process."""
        while (attempt := self._try_to_claim()) is None and self._reserved and not stopping.is_set():
            self._attempt_ended.clear()
            self._attempt_ended.wait(WAIT_SECONDS)
        return attempt

    def _try_to_claim(self) -> Attempt | None:
        """Claim without waiting for another attempt: first other jobs, in parallel, then a poison candidate."""
        if self._gpu_lost:
            return None
        with self._turns.beside_others():
            attempt = None if self._reserved else self._claim_next(poison_candidates=False)
        if attempt is not None or self._running():
            return attempt
        with self._turns.alone():
            attempt = self._claim_next(poison_candidates=not self._running(), others=not self._reserved)
            if attempt is not None and attempt.claim.poison_candidate:
                self._turns.taken()
            return attempt

    @property
    def _reserved(self) -> bool:
        """True while this process must take no job beside a poison candidate, which runs or whose turn it is."""
        return any(claim.poison_candidate for claim in self._running()) or self._turns.due()

    def _running(self) -> list[claims.Claim]:
        return [claim for claim, attempt in list(self._held.items()) if not attempt.ended]

    def _candidate_waits(self) -> bool:
        with statements(self._url) as session:
            return poison_turns.candidate_waits(session)

    def _claim_next(self, *, poison_candidates: bool, others: bool = True) -> Attempt | None:
        wanted = {"poison_candidates": poison_candidates, "others": others}
        share = {"routine_only": self._share.routine_only, "inquiries": self._share.inquiries}
        claim = self._claim_of(**wanted, **share) if self._share.restricted else None
        claim = claim or self._claim_of(**wanted)
        if claim is None:
            return None
        self._share.claimed(claim.priority, claim.kind)
        self._held[claim] = Attempt(claim, self._settings)
        return self._held[claim]

    def _claim_of(self, **wanted: bool) -> claims.Claim | None:
        with statements(self._url) as session:
            lease_seconds = self._settings.queue.lease_seconds
            return claims.claim_next(session, owner=heartbeats.name(), lease_seconds=lease_seconds, **wanted)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Mark this thread as busy: a stop must wait for it even without a claim, because it may be claiming."""
        self._serving.add(threading.get_ident())
        try:
            yield
        finally:
            self._serving.discard(threading.get_ident())

    @property
    def free(self) -> int:
        """Number of slots without a thread that serves."""
        return max(self._settings.queue.worker_slots - len(self._serving), 0)

    @property
    def busy(self) -> bool:
        """True while any thread serves."""
        return bool(self._serving)

    def held(self) -> list[claims.Claim]:
        """Return the claims with an attempt in progress."""
        return list(self._held)

    def end_silent(self, seconds: float | None = None) -> float:
        """End the attempts without progress for *seconds*, or whose lease is about to expire for lack of it.

        Returns the longest time without progress, in seconds, of any attempt, ended or not.
        """
        attempts = list(self._held.values())
        for attempt in attempts:
            if seconds is None:
                attempt.end_if_silent()
            elif attempt.silent_seconds >= seconds:
                attempt.end_silent()
        return max((attempt.silent_seconds for attempt in attempts), default=0.0)

    def give_back(self) -> int:
        """Return the held jobs to the queue; return how many."""
        returned = 0
        for claim in self.held():
            # One transaction each: a job that has just finished must not keep the others.
            with contextlib.suppress(StaleFence), transaction(self._url) as session:
                claims.give_back(session, claim)
                returned += 1
        return returned
