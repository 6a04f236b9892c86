from __future__ import annotations

import math
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from db.errors import PermanentFailure, TransientFailure
from tests.polling import wait_until
from tests.unit.worker.model.engine.fake_runner import STOP, FakeRunner, answer, log_probs, prompt
from worker.model.engine import scheduler
from worker.model.engine.engine import Engine
from worker.model.engine.request import Request

if TYPE_CHECKING:
    from concurrent.futures import Future

    from worker.model.engine.model_runner import NextToken
    from worker.model.engine.request import Generation
    from worker.model.inputs import Prompt


def engine(runner: FakeRunner, **options: Any) -> Engine:
    """An engine that is not started: the test runs its steps."""
    return Engine(runner, stop_tokens=frozenset({STOP}), detokenize=lambda ids: " ".join(map(str, ids)), **options)


def ask(served: Engine, of: Prompt, count: int = 5, **limits: Any) -> Future[Generation]:
    return served.submit(Request("", max_new_tokens=count, **limits), of)


def drive(served: Engine, *futures: Future[Generation]) -> None:
    for _ in range(500):
        if all(future.done() for future in futures):
            return
        served.step()
    pytest.fail("the engine does not finish")


def test_request_gets_the_tokens_after_its_prompt() -> None:
    served = engine(FakeRunner())

    future = ask(served, prompt(5, 6, 7), count=4)
    drive(served, future)

    result = future.result()
    assert result.token_ids == answer([5, 6, 7], 4)
    assert (result.finish_reason, result.prompt_tokens) == ("length", 3)
    assert result.text == " ".join(map(str, result.token_ids))


def test_stop_token_ends_the_answer_and_is_not_in_its_text() -> None:
    served = engine(FakeRunner(stop_after={5: 5}))

    future = ask(served, prompt(5, 6, 7), count=40)
    drive(served, future)

    result = future.result()
    assert result.finish_reason == "stop"
    assert result.token_ids == [*answer([5, 6, 7], 2), STOP]
    assert result.text == " ".join(map(str, result.token_ids[:-1]))


@pytest.mark.parametrize("seed", range(20))
def test_answers_do_not_depend_on_arrivals_cancellations_and_lengths(seed: int) -> None:
    chance = random.Random(seed)
    runner = FakeRunner(max_sequences=chance.randint(1, 5))
    served = engine(runner, prefill_tokens=chance.randint(1, 12), vision_tiles=chance.randint(1, 3))
    asked: list[tuple[list[int], int, Future[Generation]]] = []
    for _ in range(30):
        content, count = [chance.randint(1, 9) for _ in range(chance.randint(1, 20))], chance.randint(1, 15)
        asked.append((content, count, ask(served, prompt(*content, tiles=chance.randint(0, 3)), count)))
        for _ in range(chance.randint(0, 4)):
            served.step()
        if chance.random() < 0.2:
            chance.choice(asked)[2].cancel()

    drive(served, *(future for _, _, future in asked))

    for content, count, future in asked:
        assert future.cancelled() or future.result().token_ids == answer(content, count)
        assert future.cancelled() or future.result().log_probs == log_probs(content, count)
    served.step()
    assert not any(runner.cached.values()), "a row was not cleared"


def test_requests_join_a_running_batch() -> None:
    runner = FakeRunner()
    served = engine(runner)
    first = ask(served, prompt(1), count=20)
    served.step()

    second = ask(served, prompt(2), count=3)
    drive(served, second)

    assert not first.done()
    assert max(runner.batches) == 2


def test_batch_never_exceeds_the_rows() -> None:
    runner = FakeRunner(max_sequences=2)
    served = engine(runner)

    futures = [ask(served, prompt(n), count=6) for n in range(1, 7)]
    drive(served, *futures)

    assert max(runner.batches) == 2


def test_long_prompt_is_prefilled_in_chunks_between_decode_steps() -> None:
    runner = FakeRunner()
    served = engine(runner, prefill_tokens=4)
    running = ask(served, prompt(1), count=40)
    served.step()
    before = len(runner.batches)

    late = ask(served, prompt(*range(1, 21)), count=2)
    drive(served, late)

    assert max(runner.chunks) == 4
    assert len(runner.batches) - before >= 5, "the running request was delayed"
    assert not running.done()


def test_images_of_several_requests_are_encoded_in_one_batch() -> None:
    runner = FakeRunner()
    served = engine(runner, vision_tiles=4)

    futures = [ask(served, prompt(n, tiles=2), count=2) for n in (1, 2, 3)]
    drive(served, *futures)

    assert runner.vision_batches == [4, 2]


@pytest.mark.parametrize("tiles", [0, 1])
def test_request_that_fails_the_model_fails_alone(tiles: int) -> None:
    served = engine(FakeRunner(poison={9}))

    good = [ask(served, prompt(n, tiles=tiles)) for n in (1, 2)]
    bad = ask(served, prompt(9, tiles=tiles))
    more = ask(served, prompt(3, tiles=tiles))
    drive(served, *good, bad, more)

    with pytest.raises(TransientFailure, match="model_error") as raised:
        bad.result()
    assert isinstance(raised.value.__cause__, ValueError)
    assert [future.result().token_ids for future in [*good, more]] == [answer([n], 5) for n in (1, 2, 3)]


def test_out_of_memory_shrinks_the_batch_and_loses_no_request() -> None:
    runner = FakeRunner(max_sequences=4, memory=2)
    served = engine(runner)

    futures = [ask(served, prompt(n), count=6) for n in (1, 2, 3, 4)]
    drive(served, *futures)

    assert [future.result().token_ids for future in futures] == [answer([n], 6) for n in (1, 2, 3, 4)]
    assert served.metrics().rows == 2


def test_batches_grow_again_after_clean_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = FakeRunner(max_sequences=4, memory=1)
    served = engine(runner, vision_tiles=3)
    drive(served, *[ask(served, prompt(n, tiles=3)) for n in (1, 2, 3)])
    assert served.metrics().rows == 1

    monkeypatch.setattr(scheduler, "GROW_AFTER_STEPS", 10)
    runner.memory = 100
    runner.vision_batches.clear()
    for _ in range(50):
        served.step()
    drive(served, *[ask(served, prompt(n, tiles=3)) for n in (1, 2, 3, 4)])

    assert served.metrics().rows == 4
    assert max(runner.vision_batches) == 3
    assert max(runner.batches) == 4


def test_only_the_failing_request_of_a_batch_fails() -> None:
    served = engine(FakeRunner(decode_poison={9}))

    before = [ask(served, prompt(n)) for n in (1, 2)]
    bad = ask(served, prompt(9))
    after = [ask(served, prompt(n)) for n in (3, 4, 5)]
    drive(served, *before, bad, *after)

    with pytest.raises(TransientFailure, match="ValueError"):
        bad.result()
    assert [future.result().token_ids for future in [*before, *after]] == [answer([n], 5) for n in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("content", [(9, 1, 1), (9,)])
def test_request_without_finite_logits_fails_alone(content: tuple[int, ...]) -> None:
    runner = FakeRunner(infinite={9})
    served = engine(runner)

    good = [ask(served, prompt(n)) for n in (1, 2)]
    bad = ask(served, prompt(*content))
    drive(served, *good, bad)

    with pytest.raises(TransientFailure, match="not finite"):
        bad.result()
    assert [future.result().token_ids for future in good] == [answer([n], 5) for n in (1, 2)]
    assert not any(runner.cached.values())


def test_out_of_memory_shrinks_the_vision_batch() -> None:
    runner = FakeRunner(memory=1)
    served = engine(runner, vision_tiles=4)

    future = ask(served, prompt(1, tiles=4))
    drive(served, future)

    assert future.result().token_ids == answer([1], 5)
    assert set(runner.vision_batches) == {1}


def test_request_that_runs_out_of_memory_alone_fails_and_the_next_is_served() -> None:
    runner = FakeRunner(memory=0)
    served = engine(runner)

    future = ask(served, prompt(1))
    drive(served, future)

    with pytest.raises(TransientFailure):
        future.result()
    runner.memory = 1
    after = ask(served, prompt(2))
    drive(served, after)
    assert after.result().token_ids == answer([2], 5)


def test_request_longer_than_a_row_is_rejected_with_its_lengths() -> None:
    future = ask(engine(FakeRunner(max_tokens=8)), prompt(*range(1, 8)), count=5)

    with pytest.raises(PermanentFailure, match="7 prompt tokens and 5 new tokens exceed the 8"):
        future.result()


@pytest.mark.parametrize(
    "limits",
    [
        {"count": None},
        {"count": math.nan},
        {"count": 0},
        {"deadline_seconds": None},
        {"deadline_seconds": math.nan},
        {"deadline_seconds": "60"},
    ],
)
def test_request_with_invalid_limits_fails_alone(limits: dict[str, Any]) -> None:
    served = engine(FakeRunner())
    good = ask(served, prompt(1))

    bad = ask(served, prompt(2), **limits)
    drive(served, good)

    with pytest.raises(PermanentFailure):
        bad.result(timeout=1)
    assert good.result().token_ids == answer([1], 5)


def test_request_cancelled_during_the_expiry_check_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    served = engine(FakeRunner(max_sequences=1))
    first, second = ask(served, prompt(1), count=30), ask(served, prompt(2))
    answers = iter([False])
    monkeypatch.setattr(second, "cancelled", lambda: next(answers, True))

    served.step()

    assert served.metrics().queued == 1
    drive(served, first)


def test_cancelled_request_frees_its_row() -> None:
    served = engine(FakeRunner(max_sequences=1))
    first, second = ask(served, prompt(1), count=30), ask(served, prompt(2))
    served.step()

    assert first.cancel()
    drive(served, second)

    assert second.result().token_ids == answer([2], 5)


def test_deadline_ends_a_request_with_the_tokens_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    served = engine(FakeRunner(max_sequences=1))
    running = ask(served, prompt(1), count=30, deadline_seconds=60)
    waiting = ask(served, prompt(2), count=30, deadline_seconds=60)
    served.step()

    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 60)
    served.step()

    result = running.result()
    assert result.finish_reason == "deadline"
    assert result.token_ids == answer([1], 30)[: len(result.token_ids)] != []
    assert (waiting.result().finish_reason, waiting.result().token_ids) == ("deadline", [])


def test_engine_serves_threads_and_reports_metrics() -> None:
    served = engine(FakeRunner(max_sequences=3, max_tokens=10**5)).start()

    # Long enough that the first request still runs when the next ones come.
    futures = [ask(served, prompt(n), count=2000) for n in range(1, 9)]
    results = [future.result(timeout=10) for future in futures]
    metrics = served.metrics()
    served.close()

    assert [result.token_ids for result in results] == [answer([n], 2000) for n in range(1, 9)]
    assert metrics.tokens == 8 * 1999, "the first token comes with the prompt"
    assert 1.0 < metrics.mean_batch <= 3.0
    assert served.progress > 0
    assert results[0].timings.total >= results[0].timings.first_token > 0


def test_close_fails_waiting_requests_and_rejects_new_ones() -> None:
    served = engine(FakeRunner(max_tokens=10**6)).start()
    endless = ask(served, prompt(1), count=900_000)

    served.close()

    for future in (endless, ask(served, prompt(2))):
        with pytest.raises(TransientFailure, match="engine_stopped"):
            future.result(timeout=10)
    assert not served.alive


@dataclass
class HangingRunner(FakeRunner):
    """Hangs in decode until released."""

    release: threading.Event = field(default_factory=threading.Event)

    def decode(self, tokens: Any, lengths: Any) -> list[NextToken]:
        self.release.wait(10)
        return super().decode(tokens, lengths)


def test_stalled_step_is_visible_to_other_threads() -> None:
    runner = HangingRunner()
    served = engine(runner).start()
    assert served.stalled_seconds == 0.0

    future = ask(served, prompt(1))

    wait_until(lambda: served.stalled_seconds > 0.1, 10)
    runner.release.set()
    future.result(timeout=10)
    served.close()


def test_idle_time_is_not_a_stall() -> None:
    served = engine(FakeRunner())
    threading.Event().wait(0.2)

    begun = time.monotonic()
    ask(served, prompt(1))

    assert served.stalled_seconds <= time.monotonic() - begun


def test_request_that_cannot_be_detokenized_fails_alone() -> None:
    def detokenize(ids: list[int]) -> str:
        if len(ids) == 3:
            raise ValueError("no such token")
        return "text"

    served = Engine(FakeRunner(), stop_tokens=frozenset({STOP}), detokenize=detokenize)
    good, bad = ask(served, prompt(1), count=5), ask(served, prompt(2), count=3)
    drive(served, good, bad)

    assert good.result().text == "text"
    with pytest.raises(TransientFailure, match="model_error"):
        bad.result()


def test_close_before_start_fails_waiting_requests() -> None:
    served = engine(FakeRunner())
    future = ask(served, prompt(1))

    served.close()

    with pytest.raises(TransientFailure, match="engine_stopped"):
        future.result(timeout=1)


class LostDevice(FakeRunner):
    """Fails in decode and in every call after it, also when a row is freed."""

    def decode(self, tokens: Any, lengths: Any) -> list[NextToken]:  # noqa: ARG002 - fails for any
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def clear_row(self, row: int) -> None:  # noqa: ARG002 - fails for any
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


class LostWhileFreeing(FakeRunner):
    """Fails when a row is cleared or moved."""

    fault = "clear"

    def clear_row(self, row: int) -> None:
        if self.fault == "clear":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        super().clear_row(row)

    def move_row(self, source: int, target: int, length: int) -> None:  # noqa: ARG002 - fails for any
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("fault", ["clear", "move"])
def test_all_requests_fail_if_a_row_cannot_be_freed(fault: str) -> None:
    runner = LostWhileFreeing(max_sequences=2)
    runner.fault = fault
    served = engine(runner)
    running = [ask(served, prompt(n), count=30, deadline_seconds=seconds) for n, seconds in ((1, 0.3), (2, 60))]
    served.step()
    waiting = [ask(served, prompt(n), deadline_seconds=seconds) for n, seconds in ((3, 0.01), (4, 60))]
    threading.Event().wait(0.3)
    served.start()

    failures = [future.exception(timeout=5) for future in [*running, *waiting]]
    assert all(failure is None or isinstance(failure, TransientFailure) for failure in failures)
    assert failures[2] is None, "it was past its deadline before the fault"
    served.close()
    assert not served.alive


def test_lost_device_ends_the_engine_and_fails_all_requests() -> None:
    served = engine(LostDevice()).start()

    futures = [ask(served, prompt(n)) for n in (1, 2, 3)]

    for future in futures:
        with pytest.raises(TransientFailure):
            future.result(timeout=10)
    served.close()
    assert not served.alive


class DeviceThatLeaves(FakeRunner):
    """Computes until a step, then nothing any more."""

    leaves_at = "decode"
    calls_after = 0
    left = False

    def check_devices(self) -> None:
        if self.left:
            raise RuntimeError("CUDA error: unspecified launch failure")

    def _leave(self, step: str) -> None:
        self.calls_after += self.left
        self.left = self.left or step == self.leaves_at
        self.check_devices()

    def encode_images(self, prompts: Any, tiles: int) -> None:
        self._leave("encode")
        super().encode_images(prompts, tiles)

    def prefill(self, row: int, prompt: Any, start: int, count: int) -> NextToken:
        self._leave("prefill")
        return super().prefill(row, prompt, start, count)

    def decode(self, tokens: Any, lengths: Any) -> list[NextToken]:
        self._leave("decode")
        return super().decode(tokens, lengths)


@pytest.mark.parametrize(("step", "calls_after"), [("encode", 1), ("prefill", 0), ("decode", 0)])
def test_lost_gpu_ends_the_engine_in_the_step_that_meets_it(step: str, calls_after: int) -> None:
    runner = DeviceThatLeaves()
    runner.leaves_at = step
    served = engine(runner)
    futures = [ask(served, prompt(n, tiles=2)) for n in (1, 2, 3)]
    served.start()

    for future in [*futures, ask(served, prompt(4))]:
        with pytest.raises(TransientFailure, match="gpu_lost"):
            future.result(timeout=10)
    served._thread.join(10)
    assert (served.alive, served.device_lost) == (False, True)
    # One image of a batch that failed is tried alone.
    assert runner.calls_after == calls_after
