"""A request in the engine: its tokens so far, its times and the future of its answer."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.model.engine.request import Generation, OptionScore, Timings

if TYPE_CHECKING:
    from worker.model.engine.model_runner import NextToken
    from worker.model.engine.request import FinishReason, Request
    from worker.model.inputs import Prompt


@dataclass(slots=True)
class Clock:
    """Times on the monotonic clock (0 until reached) and durations of the steps, both in seconds."""

    submitted: float = field(default_factory=time.monotonic)
    admitted: float = 0.0
    first_token: float = 0.0
    vision: float = 0.0
    prefill: float = 0.0

    def timings(self) -> Timings:
        """Return the timings so far; a step that was not reached counts until now or as 0."""
        now = time.monotonic()
        return Timings(
            queue=(self.admitted or now) - self.submitted,
            vision=self.vision,
            prefill=self.prefill,
            first_token=(self.first_token or now) - self.submitted,
            total=now - self.submitted,
        )


@dataclass(slots=True, eq=False)
class Sequence:
    """One request with its prompt and generated tokens.

    The future stays pending until the end, so that the caller can cancel it at any time.
    """

    request: Request
    prompt: Prompt
    clock: Clock = field(default_factory=Clock)
    future: Future[Generation] = field(default_factory=Future)
    prefilled: int = 0
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    #: Log-probabilities of the options so far: of each token, and last of the end.
    scores: list[list[float]] = field(default_factory=list)
    #: Tokens of options after the prompt in the KV cache.
    option_tokens: int = 0
    #: True after a failed batch of several sequences: it runs alone, so that a second failure is its own.
    isolated: bool = False

    @property
    def length(self) -> int:
        """Prefilled, generated and option tokens; the newest generated token is not in the KV cache yet."""
        return self.prefilled + len(self.tokens) + self.option_tokens

    def expired(self, now: float) -> bool:
        """Return whether the request was cancelled or is past its deadline."""
        return self.future.cancelled() or now - self.clock.submitted >= self.request.deadline_seconds

    def restart(self) -> None:
        """Drop all progress; greedy decoding will generate the same tokens again."""
        self.prefilled = 0
        self.tokens.clear()
        self.log_probs.clear()
        self.scores.clear()
        self.option_tokens = 0

    def append(self, following: NextToken) -> None:
        """Append the next token."""
        self.tokens.append(following.token)
        self.log_probs.append(following.log_prob)
        self.clock.first_token = self.clock.first_token or time.monotonic()

    def finish(self, text: str, reason: FinishReason) -> None:
        """Set the answer, unless the request was cancelled."""
        if self.future.set_running_or_notify_cancel():
            answer = Generation(text, self.tokens, reason, len(self.prompt), self.clock.timings(), self.log_probs)
            self.future.set_result(answer)

    def finish_scored(self) -> None:
        """Set the scores of all options, unless the request was cancelled."""
        texts = zip(self.request.scored, self.prompt.options, self.scores, strict=True)
        options = [OptionScore(text, ids, values[:-1], values[-1]) for text, ids, values in texts]
        best = max(options, key=lambda option: option.total)
        self.clock.first_token = time.monotonic()
        if self.future.set_running_or_notify_cancel():
            timings, count = self.clock.timings(), len(self.prompt)
            answer = Generation(best.text, best.token_ids, "stop", count, timings, best.log_probs, options)
            self.future.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Set *error*, unless the request was cancelled."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)
