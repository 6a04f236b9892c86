"""Engine metrics: queue, batch size, tokens per second, time to first token, KV cache use."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.model.engine.sequence import Clock

#: Requests in the median time to the first token.
FIRST_TOKEN_REQUESTS = 100
#: Window of the tokens per second, in seconds.
RATE_WINDOW_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Metrics:
    """One reading. `rows` are the slots in use by the scheduler, `mean_batch` is over all decode steps.

    `first_token_seconds` is the median over the latest requests. The names are published in `/metrics`.
    """

    queued: int
    running: int
    rows: int
    kv_tokens_used: int
    kv_tokens: int
    tokens: int
    mean_batch: float
    tokens_per_second: float
    first_token_seconds: float
    #: Time that the current step has taken; 0 without work.
    stalled_seconds: float


@dataclass(slots=True)
class Meter:
    """Counters of the engine, written by its thread and read by any."""

    steps: int = 0
    _tokens: int = 0
    _decode_steps: int = 0
    _step_started: float = field(default_factory=time.monotonic)
    _recent: deque[tuple[float, int]] = field(default_factory=deque)
    _first_tokens: deque[float] = field(default_factory=lambda: deque(maxlen=FIRST_TOKEN_REQUESTS))

    @property
    def stalled_seconds(self) -> float:
        """Seconds since the latest step started."""
        return time.monotonic() - self._step_started

    def start_step(self) -> None:
        """Record the start of a step."""
        self._step_started = time.monotonic()

    def add_decode_step(self, tokens: int) -> None:
        """Count a decode step of *tokens* tokens, one per running sequence."""
        now = time.monotonic()
        self._tokens += tokens
        self._decode_steps += 1
        self._recent.append((now, tokens))
        while now - self._recent[0][0] > RATE_WINDOW_SECONDS:
            self._recent.popleft()

    def add_first_token(self, clock: Clock) -> None:
        """Count a request's time to its first token."""
        self._first_tokens.append(clock.first_token - clock.submitted)

    def read(self, *, stalled_seconds: float, **state: int) -> Metrics:
        """Return the counters together with *state*: the other fields of Metrics."""
        now = time.monotonic()
        recent = sum(count for at, count in self._recent.copy() if now - at <= RATE_WINDOW_SECONDS)
        return Metrics(
            **state,
            tokens=self._tokens,
            mean_batch=self._tokens / self._decode_steps if self._decode_steps else 0.0,
            tokens_per_second=recent / RATE_WINDOW_SECONDS,
            first_token_seconds=median(self._first_tokens.copy()) if self._first_tokens else 0.0,
            stalled_seconds=stalled_seconds,
        )
