"""Figures of the engine: queue, occupancy, tokens per second, time to first token, cache use."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.model.engine.sequence import Clock

#: Requests whose time to the first token is remembered.
REMEMBERED = 100
#: Seconds over which tokens per second are counted.
RATE_WINDOW = 10.0


@dataclass(frozen=True, slots=True)
class Metrics:
    """One reading. Seconds are medians over the latest requests; `mean_batch` is over all decode steps."""

    queued: int
    running: int
    rows: int
    kv_tokens_used: int
    kv_tokens: int
    tokens: int
    mean_batch: float
    tokens_per_second: float
    first_token_seconds: float


@dataclass(slots=True)
class Meter:
    """Counts as the engine goes; written by the engine's thread, read by any."""

    steps: int = 0
    _tokens: int = 0
    _decodes: int = 0
    _step_began: float = field(default_factory=time.monotonic)
    _recent: deque[tuple[float, int]] = field(default_factory=deque)
    _first_tokens: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    @property
    def stalled_seconds(self) -> float:
        """How long ago the latest step began."""
        return time.monotonic() - self._step_began

    def begin(self) -> None:
        """A step begins."""
        self._step_began = time.monotonic()

    def decoded(self, tokens: int) -> None:
        """A decode step made *tokens* tokens, one per running request."""
        now = time.monotonic()
        self._tokens += tokens
        self._decodes += 1
        self._recent.append((now, tokens))
        while now - self._recent[0][0] > RATE_WINDOW:
            self._recent.popleft()

    def first_token(self, clock: Clock) -> None:
        """A request has its first token."""
        self._first_tokens.append(clock.first_token - clock.submitted)

    def read(self, *, queued: int, running: int, rows: int, kv_tokens_used: int, kv_tokens: int) -> Metrics:
        """Put the counts and the engine's state together."""
        now = time.monotonic()
        recent = sum(count for at, count in self._recent.copy() if now - at <= RATE_WINDOW)
        return Metrics(
            queued=queued,
            running=running,
            rows=rows,
            kv_tokens_used=kv_tokens_used,
            kv_tokens=kv_tokens,
            tokens=self._tokens,
            mean_batch=self._tokens / self._decodes if self._decodes else 0.0,
            tokens_per_second=recent / RATE_WINDOW,
            first_token_seconds=median(self._first_tokens.copy()) if self._first_tokens else 0.0,
        )
