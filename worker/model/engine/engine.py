"""The engine: one thread that runs the scheduler for requests submitted from any thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import structlog

from db.errors import PermanentFailure, Reason, TransientFailure
from worker.model.engine.metrics import Meter, Metrics
from worker.model.engine.model_runner import DeviceLost, is_lost
from worker.model.engine.request import invalid_request
from worker.model.engine.scheduler import Scheduler
from worker.model.engine.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from worker.model.engine.model_runner import ModelRunner
    from worker.model.engine.request import Generation, Request
    from worker.model.inputs import Prompt

log = structlog.get_logger()


class Engine:
    """Serves requests from any number of threads on its own thread; *limits* are those of Scheduler."""

    def __init__(
        self,
        runner: ModelRunner,
        *,
        stop_tokens: frozenset[int],
        detokenize: Callable[[list[int]], str],
        **limits: int,
    ) -> None:
        self.runner = runner
        self._meter = Meter()
        self._scheduler = Scheduler(runner, self._meter, stop_tokens=stop_tokens, detokenize=detokenize, **limits)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        #: True once a device no longer computes: only a new process can serve.
        self.device_lost = False

    def start(self) -> Engine:
        """Start the thread."""
        self._thread.start()
        return self

    def submit(self, request: Request, prompt: Prompt) -> Future[Generation]:
        """Queue a request; its future can be cancelled at any time.

        The future raises PermanentFailure if the request is longer than a row, its options counted, or is invalid,
        TransientFailure if the model failed on it or the engine stopped first.
        """
        sequence = Sequence(request, prompt)
        if (failure := invalid_request(request) or self._too_long(sequence)) is not None:
            sequence.fail(failure)
            return sequence.future
        if not self._scheduler.busy:
            # The pause until now was idle time and no stall, even before the thread has woken up.
            self._meter.start_step()
        if not self._scheduler.queue.put(sequence):
            sequence.fail(self._stopped())
        return sequence.future

    def close(self) -> None:
        """Stop after the current step; requests that are not done get a TransientFailure."""
        self._scheduler.queue.close()
        if self._thread.ident is None:
            self._scheduler.abort(self._stopped())
        elif self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """True while it serves; False permanently after a device fault."""
        return self._thread.is_alive() and not self._scheduler.queue.closed

    @property
    def progress(self) -> int:
        """Number of steps so far."""
        return self._meter.steps

    @property
    def stalled_seconds(self) -> float:
        """Seconds that the current step has taken; 0 if there is no work."""
        return self._meter.stalled_seconds if self._scheduler.busy else 0.0

    def metrics(self) -> Metrics:
        """Return the current figures."""
        batch = self._scheduler.batch
        return self._meter.read(
            stalled_seconds=self.stalled_seconds,
            queued=len(self._scheduler.queue),
            running=len(batch),
            rows=self._scheduler.max_running,
            kv_tokens_used=sum(sequence.length for sequence in batch),
            kv_tokens=self.runner.max_sequences * self.runner.max_tokens,
        )

    def step(self) -> None:
        """Run one step of the scheduler."""
        self._scheduler.step()
        self._meter.steps += 1

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self.step()
        except Exception as error:
            # The boundary of the thread: an error even while freeing a row (a lost device) ends the engine.
            self.device_lost = isinstance(error, DeviceLost) or is_lost(self.runner)
            log.exception("engine.failed", device_lost=self.device_lost)
        finally:
            self._scheduler.abort(self._stopped())

    def _stopped(self) -> TransientFailure:
        if self.device_lost:
            return TransientFailure(Reason.GPU_LOST, "the worker's GPU stopped computing: see its log and `dmesg`")
        return TransientFailure(Reason.ENGINE_STOPPED, "the engine stopped before the request was finished")

    def _wait_for_work(self) -> bool:
        if not len(self._scheduler.batch):
            self._scheduler.queue.wait()
        self._meter.start_step()
        return not self._scheduler.queue.closed

    def _too_long(self, sequence: Sequence) -> PermanentFailure | None:
        if sequence.prompt.options:
            return self._options_too_long(sequence.prompt)
        length, new = len(sequence.prompt), sequence.request.max_new_tokens
        if length + new <= self.runner.max_tokens:
            return None
        return PermanentFailure(
            Reason.PROMPT_TOO_LONG,
            f"{length} prompt tokens and {new} new tokens exceed the {self.runner.max_tokens} tokens of one request: "
            "use fewer images or quote fewer cases",
        )

    def _options_too_long(self, prompt: Prompt) -> PermanentFailure | None:
        counts = [len(option) for option in prompt.options]
        if not all(counts):
            return PermanentFailure(Reason.INVALID_QUESTION, "an option has no tokens: send options with a text")
        if len(prompt) + sum(counts) <= self.runner.max_tokens:
            return None
        return PermanentFailure(
            Reason.PROMPT_TOO_LONG,
            f"{len(prompt)} prompt tokens and {sum(counts)} tokens of {len(counts)} options exceed the "
            f"{self.runner.max_tokens} tokens of one request: use fewer or shorter options, or fewer images",
        )
