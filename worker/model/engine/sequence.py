"""A request on its way through the engine."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from worker.model.engine.request import Generation, Timings

if TYPE_CHECKING:
    from worker.model.engine.request import FinishReason, Request
    from worker.model.inputs import Prompt

log = structlog.get_logger()


@dataclass(slots=True)
class Clock:
    """When what happened to a request, on the monotonic clock, and what it took, in seconds."""

    submitted: float = field(default_factory=time.monotonic)
    started: float = 0.0
    first_token: float = 0.0
    vision: float = 0.0
    prefill: float = 0.0

    def timings(self) -> Timings:
        """As it stands now; a step never reached took no time."""
        now = time.monotonic()
        return Timings(
            queue=(self.started or now) - self.submitted,
            vision=self.vision,
            prefill=self.prefill,
            first_token=(self.first_token or now) - self.submitted,
            total=now - self.submitted,
        )


@dataclass(slots=True, eq=False)
class Turn:
    """One request, its tokens so far and the future of its answer.

    The future stays pending until the end, so that its owner can cancel it at any time.
    """

    request: Request
    prompt: Prompt
    clock: Clock = field(default_factory=Clock)
    future: Future[Generation] = field(default_factory=Future)
    prefilled: int = 0
    tokens: list[int] = field(default_factory=list)
    #: Suspected of breaking a batch: it runs with nobody beside it.
    alone: bool = False

    @property
    def length(self) -> int:
        """Prompt tokens read and tokens made so far; the newest token is not in the cache yet."""
        return self.prefilled + len(self.tokens)

    def overdue(self, now: float) -> bool:
        """Whether nobody waits for it any more, or its time is up."""
        running = now - self.clock.started if self.clock.started else 0.0
        return (
            self.future.cancelled()
            or now - self.clock.submitted >= self.request.deadline_seconds
            or running >= self.request.running_seconds
        )

    def start(self) -> None:
        """Leave the queue."""
        self.clock.started = time.monotonic()

    def restart(self) -> None:
        """Forget all progress; greedy decoding will make the same tokens again."""
        self.prefilled = 0
        self.tokens.clear()

    def spent_on_vision(self, seconds: float) -> None:
        """Add to the time the vision tower took (of a batch, each request bears the whole)."""
        self.clock.vision += seconds

    def spent_on_prefill(self, seconds: float) -> None:
        """Add to the time that reading the prompt took."""
        self.clock.prefill += seconds

    def append(self, token: int) -> None:
        """Take the next token and tell the request's owner."""
        self.tokens.append(token)
        self.clock.first_token = self.clock.first_token or time.monotonic()
        if self.request.on_progress is not None:
            try:
                self.request.on_progress(len(self.tokens))
            except Exception:
                # A request's boundary: its owner's fault must not reach the others in the batch.
                log.exception("on_progress_failed")

    def finish(self, text: str, reason: FinishReason) -> None:
        """Hand the answer over, unless nobody waits for it."""
        if self.future.set_running_or_notify_cancel():
            answer = Generation(text, self.tokens, reason, len(self.prompt), self.clock.timings())
            self.future.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Hand *error* over, unless nobody waits."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)
