"""Continuous batching: sequences are admitted and finished between the decode steps of one batch.

A step removes finished sequences, encodes the next images, prefills a bounded number of prompt tokens and decodes one
token for every running sequence. The bounds keep running sequences going while others are prefilled. The options of a
request are scored as the continuation of its prefill; it never decodes.
"""

from __future__ import annotations

import math
import time
from itertools import chain
from typing import TYPE_CHECKING

import structlog
import torch

from db.errors import Reason, TransientFailure
from worker.model.engine.batch import Batch
from worker.model.engine.model_runner import NO_TOKEN, DeviceLost, is_lost
from worker.model.engine.waiting_queue import WaitingQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from worker.model.engine.metrics import Meter
    from worker.model.engine.model_runner import ModelRunner, NextToken
    from worker.model.engine.request import FinishReason
    from worker.model.engine.sequence import Sequence

log = structlog.get_logger()

#: Prompt tokens prefilled per step. A few hundred keep a GPU busy; more of them delay the running sequences. (40 B
#: parameters at 800 TFLOP/s: 85 us per token, so 1024 take about as long as six decode steps.)
PREFILL_TOKENS = 1024
#: Tiles per batch of the vision tower, for the same reason: about 15 ms each in the same computation.
VISION_TILES = 4
#: Option tokens scored at once: their logits are 0.25 MB a token with a vocabulary of 64,000 in float32.
OPTION_TOKENS = 256
#: Steps without an out-of-memory error after which the batch may grow by one again: half a minute or more, so that an
#: unnecessary preemption, once in that time, costs little.
GROW_AFTER_STEPS = 1000


class Scheduler:
    """Chooses the work of each step. Used by the engine's thread only, except for `queue`."""

    def __init__(
        self,
        runner: ModelRunner,
        meter: Meter,
        *,
        stop_tokens: frozenset[int],
        detokenize: Callable[[list[int]], str],
        prefill_tokens: int = PREFILL_TOKENS,
        vision_tiles: int = VISION_TILES,
    ) -> None:
        self._runner = runner
        self._meter = meter
        self._stop_tokens = stop_tokens
        self._detokenize = detokenize
        self._prefill_tokens = prefill_tokens
        self._max_tiles = self._tiles = vision_tiles
        self._clean_steps = 0
        self.batch = Batch(runner)
        self.queue = WaitingQueue()
        #: Sequences that may run simultaneously; fewer than the runner's rows after an out-of-memory error.
        self.max_running = runner.max_sequences

    @property
    def busy(self) -> bool:
        """True if a sequence runs or waits."""
        return bool(len(self.batch) or len(self.queue))

    def step(self) -> None:
        """Run one step of bounded work for all sequences."""
        self._remove_expired()
        self._encode_images()
        self._prefill()
        self._decode()
        self._grow()

    def abort(self, error: Exception) -> None:
        """Fail all sequences, accept no more, and no longer use the device."""
        self.queue.close()
        left = [*self.batch, *self.queue.drain()]
        self.batch.forget()
        for sequence in left:
            sequence.fail(error)

    def _remove_expired(self) -> None:
        now = time.monotonic()
        for sequence in self.queue.remove_expired(now):
            self._deliver(sequence, "deadline")
        for sequence in self.batch:
            if sequence.expired(now):
                self._finish(sequence, "deadline")

    def _encode_images(self) -> None:
        """Encode the next tiles, only of sequences that could run next."""
        sequences = [s for s in self.queue.first(self._runner.max_sequences) if s.prompt.pending_tiles]
        if not sequences:
            return
        started = time.monotonic()
        try:
            self._runner.encode_images([sequence.prompt for sequence in sequences], self._tiles)
        except Exception as error:  # noqa: BLE001 - the boundary of a request: any image of the batch may be the cause
            self._encode_one(sequences[0], error)
        for sequence in sequences:
            # The time of the batch counts for each of its sequences: each waits for all of it.
            sequence.clock.vision += time.monotonic() - started

    def _encode_one(self, sequence: Sequence, error: Exception) -> None:
        """Recover from a failed batch: allow fewer tiles if memory ran out, else encode one, or fail its sequence."""
        if self._tiles > 1 and isinstance(error, torch.OutOfMemoryError):
            self._clean_steps = 0
            self._tiles = max(1, self._tiles // 2)
            log.warning("vision_batch.reduced", cause="out of memory", tiles=self._tiles)
            return
        try:
            self._runner.encode_images([sequence.prompt], 1)
        except Exception as own_error:  # noqa: BLE001 - the boundary of a request: it fails alone
            self._require_devices(own_error)
            self.queue.remove(sequence)
            sequence.fail(model_error(own_error))

    def _prefill(self) -> None:
        budget = self._prefill_tokens
        while budget > 0 and (sequence := self.batch.prefilling or self._admit()) is not None:
            budget -= self._prefill_chunk(sequence, budget)

    def _admit(self) -> Sequence | None:
        """Give the next waiting sequence a row; return None if it must wait."""
        for sequence in self.queue.first(1):
            if self._may_run(sequence):
                self.queue.remove(sequence)
                sequence.clock.admitted = time.monotonic()
                self.batch.add(sequence)
                return sequence
        return None

    def _may_run(self, sequence: Sequence) -> bool:
        if sequence.prompt.pending_tiles or len(self.batch) >= self.max_running:
            return False
        return not len(self.batch) or not (sequence.isolated or any(running.isolated for running in self.batch))

    def _prefill_chunk(self, sequence: Sequence, budget: int) -> int:
        """Prefill up to *budget* tokens; return their number, more than *budget* if the prompt cannot be chunked."""
        left = len(sequence.prompt) - sequence.prefilled
        if not left:
            return self._score_chunk(sequence, budget)
        count = min(left, budget) if sequence.prompt.chunkable else left
        row, started = len(self.batch) - 1, time.monotonic()
        try:
            following = self._runner.prefill(row, sequence.prompt, sequence.prefilled, count)
        except Exception as error:  # noqa: BLE001 - the boundary of a request: it fails alone
            self._preempt_or_fail(sequence, error)
            return count
        sequence.prefilled += count
        sequence.clock.prefill += time.monotonic() - started
        if count == left and (following.token == NO_TOKEN or not sequence.prompt.options):
            self._append([sequence], [following])
        return count

    def _score_chunk(self, sequence: Sequence, budget: int) -> int:
        """Score the next options, about *budget* tokens of them; return the number of their tokens."""
        options = _first_options(sequence.prompt.options[len(sequence.scores) :], min(budget, OPTION_TOKENS))
        count, started = sum(map(len, options)), time.monotonic()
        # Before the call: it may write them and fail.
        sequence.option_tokens = max(sequence.option_tokens, count)
        try:
            scores = self._runner.score(len(self.batch) - 1, sequence.prompt, options, self._stop_tokens)
        except Exception as error:  # noqa: BLE001 - the boundary of a request: it fails alone
            self._preempt_or_fail(sequence, error)
            return count
        sequence.scores += scores
        sequence.clock.prefill += time.monotonic() - started
        if not all(map(math.isfinite, chain.from_iterable(scores))):
            self.batch.free(sequence)
            sequence.fail(model_error(FloatingPointError("the logits are not finite")))
        elif len(sequence.scores) == len(sequence.prompt.options):
            self.batch.free(sequence)
            sequence.finish_scored()
        return count

    def _decode(self) -> None:
        sequences = self.batch.decoding
        if not sequences:
            return
        try:
            tokens = self._runner.decode([s.tokens[-1] for s in sequences], [s.length - 1 for s in sequences])
        except torch.OutOfMemoryError as error:
            self._preempt_or_fail(sequences[-1], error)
        except Exception as error:  # noqa: BLE001 - the boundary of a request: it fails alone, once it is identified
            self._isolate(sequences, error)
        else:
            self._meter.add_decode_step(len(tokens))
            self._append(sequences, tokens)

    def _preempt_or_fail(self, sequence: Sequence, error: Exception) -> None:
        """Preempt *sequence* if memory ran out beside others, else fail it."""
        self._require_devices(error)
        self.batch.free(sequence)
        if not (isinstance(error, torch.OutOfMemoryError) and len(self.batch)):
            sequence.fail(model_error(error))
            return
        self._clean_steps = 0
        self.max_running = len(self.batch)
        log.warning("batch.reduced", cause="out of memory", sequences=self.max_running)
        self._requeue(sequence)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _require_devices(self, error: Exception) -> None:
        """Raise DeviceLost if *error* is no fault of a request: no device error passes while the process lives."""
        if not isinstance(error, torch.OutOfMemoryError) and is_lost(self._runner):
            raise DeviceLost(type(error).__name__) from error

    def _isolate(self, sequences: list[Sequence], error: Exception) -> None:
        """Run each of *sequences* again, alone, because any of them may have caused the failed step."""
        self._require_devices(error)
        log.warning("decode.failed", error=type(error).__name__, sequences=len(sequences))
        for sequence in reversed(sequences):
            self.batch.free(sequence)
            if len(sequences) == 1:
                sequence.fail(model_error(error))
            else:
                sequence.isolated = True
                self._requeue(sequence)

    def _requeue(self, sequence: Sequence) -> None:
        sequence.restart()
        self.queue.put_first(sequence)

    def _grow(self) -> None:
        """Allow one more sequence and one more tile after GROW_AFTER_STEPS steps without an error."""
        self._clean_steps += 1
        if self._clean_steps % GROW_AFTER_STEPS == 0:
            self.max_running = min(self.max_running + 1, self._runner.max_sequences)
            self._tiles = min(self._tiles + 1, self._max_tiles)

    def _append(self, sequences: Iterable[Sequence], tokens: Iterable[NextToken]) -> None:
        """Append each sequence's new token, then finish or fail those that cannot continue."""
        pairs = list(zip(sequences, tokens, strict=True))
        for sequence, following in pairs:
            if following.token != NO_TOKEN:
                sequence.append(following)
                if len(sequence.tokens) == 1:
                    self._meter.add_first_token(sequence.clock)
        for sequence, following in pairs:
            if following.token == NO_TOKEN:
                self.batch.free(sequence)
                sequence.fail(model_error(FloatingPointError("the logits are not finite")))
            elif following.token in self._stop_tokens:
                self._finish(sequence, "stop")
            elif len(sequence.tokens) >= sequence.request.max_new_tokens:
                self._finish(sequence, "length")

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self.batch.free(sequence)
        self._deliver(sequence, reason)

    def _deliver(self, sequence: Sequence, reason: FinishReason) -> None:
        if sequence.prompt.options:
            # Some of the options would look like all of them.
            sequence.fail(TransientFailure(Reason.OPTIONS_NOT_SCORED, "the time limit passed before all were scored"))
            return
        try:
            text = self._detokenize(sequence.tokens[:-1] if reason == "stop" else sequence.tokens)
        except Exception as error:  # noqa: BLE001 - the boundary of a request: it fails alone
            sequence.fail(model_error(error))
        else:
            sequence.finish(text, reason)


def _first_options(options: list[list[int]], limit: int) -> list[list[int]]:
    """Return the first options with *limit* tokens at most together; at least one."""
    count, total = 1, len(options[0])
    while count < len(options) and total + len(options[count]) <= limit:
        total += len(options[count])
        count += 1
    return options[:count]


def model_error(error: Exception) -> TransientFailure:
    """Return the failure of a request whose computation raised *error*; its text holds no data of the request."""
    cause = str(error) if isinstance(error, FloatingPointError) else type(error).__name__
    failure = TransientFailure(Reason.MODEL_ERROR, f"the model failed on this request ({cause})")
    failure.__cause__ = error
    return failure
