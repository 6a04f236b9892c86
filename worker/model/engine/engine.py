"""Continuous batching: requests join and leave between decode steps of one resident model.

A step retires what is over, shows the vision tower the next images, prefills a bounded piece of the next prompts and
decodes one token for every running request. The bounds keep running requests flowing while new ones come in.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import structlog
import torch

from db.errors import PermanentFailure, Reason, TransientFailure
from worker.model.engine.batch import Rows
from worker.model.engine.metrics import Meter, Metrics
from worker.model.engine.model_runner import NO_TOKEN
from worker.model.engine.request import refusal
from worker.model.engine.sequence import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from worker.model.engine.model_runner import Arithmetic
    from worker.model.engine.request import FinishReason, Generation, Request
    from worker.model.inputs import Prompt

log = structlog.get_logger()

#: Prompt tokens read per step. A few hundred keep a GPU busy already; each further one delays those who run. (40 B
#: parameters at 800 TFLOP/s: 85 us a token, so 1024 cost about as much as six decode steps.)
PREFILL_TOKENS = 1024
#: Images per vision batch, to the same end: some 15 ms each in that computation.
VISION_TILES = 4
#: Steps without trouble after which a batch that ran out of memory may grow by one again: half a minute or more, so
#: that a request sent back for nothing, once in that time, costs little.
GROW_AFTER = 1000


class Engine:
    """Serves requests from any number of threads on one thread of its own.

    Only that thread touches `_rows`; `_lock` guards the queue.
    """

    def __init__(
        self,
        runner: Arithmetic,
        *,
        stop_tokens: frozenset[int],
        detokenize: Callable[[list[int]], str],
        prefill_tokens: int = PREFILL_TOKENS,
        vision_tiles: int = VISION_TILES,
    ) -> None:
        self._runner = runner
        self._stop_tokens = stop_tokens
        self._detokenize = detokenize
        self._prefill_tokens = prefill_tokens
        self._most_tiles = self._vision_tiles = vision_tiles
        self._row_limit = runner.rows
        self._rows = Rows(runner)
        self._waiting: deque[Turn] = deque()
        self._lock = threading.Condition()
        self._closing = False
        self._clean_steps = 0
        self._meter = Meter()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> Engine:
        """Begin to serve."""
        self._thread.start()
        return self

    def submit(self, request: Request, prompt: Prompt) -> Future[Generation]:
        """Queue a request; the future can be cancelled at any time.

        The future raises PermanentFailure where the request does not fit a row or its limits will not do,
        TransientFailure where the model failed on it or the engine closed first.
        """
        turn = Turn(request, prompt)
        if (refused := refusal(request)) is not None:
            turn.fail(refused)
            return turn.future
        if len(prompt) + request.max_new_tokens > self._runner.tokens:
            turn.fail(PermanentFailure(Reason.PROMPT_TOO_LONG, self._too_long(turn)))
            return turn.future
        with self._lock:
            if self._closing:
                turn.fail(_stopped())
            else:
                if not self._waiting and not self._rows:
                    # The pause before was idle time, no stall, also until the engine's thread has woken up.
                    self._meter.begin()
                self._waiting.append(turn)
                self._lock.notify()
        return turn.future

    def close(self) -> None:
        """Stop after the step under way; whoever still waits gets a TransientFailure."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        if self._thread.ident is None:
            self._abandon_all()
        elif self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it serves; False for good after a fault of the device."""
        return self._thread.is_alive() and not self._closing

    @property
    def progress(self) -> int:
        """Grows with every step."""
        return self._meter.steps

    @property
    def stalled_seconds(self) -> float:
        """How long the step under way has taken; 0 while there is nothing to do."""
        return self._meter.stalled_seconds if self._rows or self._waiting else 0.0

    def metrics(self) -> Metrics:
        """Figures of this moment."""
        return self._meter.read(
            queued=len(self._waiting),
            running=len(self._rows),
            rows=self._row_limit,
            kv_tokens_used=sum(turn.length for turn in self._rows),
            kv_tokens=self._runner.rows * self._runner.tokens,
        )

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self.step()
        except Exception:
            # The thread's boundary: a fault that even freeing a row cannot survive (a lost device) ends the engine.
            log.exception("engine_died")
        finally:
            self._abandon_all()

    def _wait_for_work(self) -> bool:
        with self._lock:
            self._lock.wait_for(lambda: self._closing or self._waiting or self._rows)
            self._meter.begin()
            return not self._closing

    def step(self) -> None:
        """Do a bounded piece of work for everyone."""
        self._retire_overdue()
        self._see()
        self._prefill()
        self._decode()
        self._grow()
        self._meter.steps += 1

    def _retire_overdue(self) -> None:
        now = time.monotonic()
        overdue: list[Turn] = []
        waiting: deque[Turn] = deque()
        with self._lock:
            # Each is asked once: it may be cancelled at any moment, and must be in one of the two.
            for turn in self._waiting:
                (overdue if turn.overdue(now) else waiting).append(turn)
            self._waiting = waiting
        for turn in overdue:
            self._finish(turn, "deadline")
        for turn in self._rows:
            if turn.overdue(now):
                self._leave(turn, "deadline")

    def _see(self) -> None:
        """Show the tower the next images, of no more requests than could run next."""
        turns = [turn for turn in self._next_turns() if turn.prompt.unseen]
        if not turns:
            return
        started = time.monotonic()
        try:
            self._runner.see([turn.prompt for turn in turns], self._vision_tiles)
        except Exception as error:  # noqa: BLE001 - the cause may be any of the batch's images: a request's boundary
            self._see_alone(turns[0], error)
        for turn in turns:
            turn.spent_on_vision(time.monotonic() - started)

    def _next_turns(self) -> list[Turn]:
        with self._lock:
            waiting = list(self._waiting)
        return waiting[: self._runner.rows]

    def _see_alone(self, turn: Turn, error: Exception) -> None:
        """After a failed batch: go on with smaller ones; where one image alone fails, its request does."""
        if self._vision_tiles > 1 and isinstance(error, torch.OutOfMemoryError):
            self._clean_steps = 0
            self._vision_tiles = max(1, self._vision_tiles // 2)
            log.warning("vision_out_of_memory", tiles=self._vision_tiles)
            return
        try:
            self._runner.see([turn.prompt], 1)
        except Exception as alone:  # noqa: BLE001 - a request's boundary: it fails alone
            with self._lock:
                self._waiting.remove(turn)
            turn.fail(_model_error(alone))

    def _prefill(self) -> None:
        budget = self._prefill_tokens
        while budget > 0 and (turn := self._reading()) is not None:
            budget -= self._read(turn, budget)

    def _reading(self) -> Turn | None:
        """The turn whose prompt is being read, or else the next in the queue if a row is free."""
        if self._rows.reading is not None:
            return self._rows.reading
        with self._lock:
            if not self._waiting or not self._may_join(self._waiting[0]):
                return None
            turn = self._waiting.popleft()
        turn.start()
        self._rows.add(turn)
        return turn

    def _may_join(self, turn: Turn) -> bool:
        if turn.prompt.unseen or len(self._rows) >= self._row_limit:
            return False
        return not self._rows or not (turn.alone or any(running.alone for running in self._rows))

    def _read(self, turn: Turn, budget: int) -> int:
        """Prefill up to *budget* tokens of a prompt; returns how many (one that is not divisible may exceed it)."""
        left = len(turn.prompt) - turn.prefilled
        count = min(left, budget) if turn.prompt.divisible else left
        row, started = len(self._rows) - 1, time.monotonic()
        try:
            token = self._runner.prefill(row, turn.prompt, turn.prefilled, count)
        except Exception as error:  # noqa: BLE001 - a request's boundary: it fails alone
            self._recover(turn, error)
            return count
        turn.prefilled += count
        turn.spent_on_prefill(time.monotonic() - started)
        if count == left:
            self._advance([turn], [token])
        return count

    def _recover(self, turn: Turn, error: Exception) -> None:
        """A prompt could not be read: for want of memory it waits until others are done, else its request fails."""
        self._rows.vacate(turn)
        if isinstance(error, torch.OutOfMemoryError) and len(self._rows):
            self._shrink(turn)
        else:
            turn.fail(_model_error(error))

    def _shrink(self, turn: Turn) -> None:
        """Run one request less for a while; *turn*, off its row already, starts over as the next."""
        self._clean_steps = 0
        self._row_limit = len(self._rows)
        log.warning("out_of_memory", rows=self._row_limit)
        self._send_back(turn)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _send_back(self, turn: Turn) -> None:
        turn.restart()
        with self._lock:
            self._waiting.appendleft(turn)

    def _grow(self) -> None:
        """After a while without trouble try one request, and one image, more."""
        self._clean_steps += 1
        if self._clean_steps % GROW_AFTER == 0:
            self._row_limit = min(self._row_limit + 1, self._runner.rows)
            self._vision_tiles = min(self._vision_tiles + 1, self._most_tiles)

    def _decode(self) -> None:
        turns = self._rows.decoding
        if not turns:
            return
        try:
            tokens = self._runner.decode([turn.tokens[-1] for turn in turns], [turn.length - 1 for turn in turns])
        except torch.OutOfMemoryError as error:
            self._recover(turns[-1], error)
        except Exception as error:  # noqa: BLE001 - a request's boundary: it fails alone, once it is known which
            self._suspect(turns, error)
        else:
            self._meter.decoded(len(tokens))
            self._advance(turns, tokens)

    def _suspect(self, turns: Sequence[Turn], error: Exception) -> None:
        """A step failed and there is no telling whose fault it was: each of *turns* starts over, by itself."""
        log.warning("decode_failed", error=type(error).__name__, requests=len(turns))
        for turn in reversed(turns):
            self._rows.vacate(turn)
            if len(turns) == 1:
                turn.fail(_model_error(error))
            else:
                turn.alone = True
                self._send_back(turn)

    def _advance(self, turns: Sequence[Turn], tokens: Sequence[int]) -> None:
        """Append each turn's new token, and let those go that are done or cannot go on."""
        for turn, token in zip(turns, tokens, strict=True):
            if token != NO_TOKEN:
                turn.append(token)
                if len(turn.tokens) == 1:
                    self._meter.first_token(turn.clock)
        for turn, token in zip(turns, tokens, strict=True):
            if token == NO_TOKEN:
                self._rows.vacate(turn)
                turn.fail(_model_error(FloatingPointError("it computed no finite numbers")))
            elif token in self._stop_tokens:
                self._leave(turn, "stop")
            elif len(turn.tokens) >= turn.request.max_new_tokens:
                self._leave(turn, "length")

    def _leave(self, turn: Turn, reason: FinishReason) -> None:
        self._rows.vacate(turn)
        self._finish(turn, reason)

    def _finish(self, turn: Turn, reason: FinishReason) -> None:
        shown = turn.tokens[:-1] if reason == "stop" else turn.tokens
        try:
            text = self._detokenize(shown)
        except Exception as error:  # noqa: BLE001 - a request's boundary: it fails alone
            turn.fail(_model_error(error))
        else:
            turn.finish(text, reason)

    def _abandon_all(self) -> None:
        with self._lock:
            self._closing = True
            left = [*self._rows, *self._waiting]
            self._rows.clear()
            self._waiting.clear()
        for turn in left:
            turn.fail(_stopped())

    def _too_long(self, turn: Turn) -> str:
        return (
            f"{len(turn.prompt)} prompt tokens and {turn.request.max_new_tokens} new ones exceed the "
            f"{self._runner.tokens} tokens a request may have: show fewer images or quote less"
        )


def _stopped() -> TransientFailure:
    return TransientFailure(Reason.ENGINE_STOPPED, "the worker's engine stopped before the request was done")


def _model_error(error: Exception) -> TransientFailure:
    why = str(error) if isinstance(error, FloatingPointError) else type(error).__name__
    failure = TransientFailure(Reason.MODEL_ERROR, f"the model failed on this request ({why})")
    failure.__cause__ = error
    return failure
