"""Options and answers in the engine: scored as if alone, in any batch, within the memory of a row."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from db.errors import PermanentFailure, Reason, TransientFailure
from tests.unit.worker.model.engine.fake_runner import FakeRunner, answer, log_probs, prompt, scores
from tests.unit.worker.model.engine.test_engine import ask, drive, engine
from worker.model.engine import scheduler
from worker.model.engine.request import Request

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from worker.model.engine.engine import Engine
    from worker.model.engine.request import Generation


def choose(
    served: Engine, content: Sequence[int], options: Sequence[Sequence[int]], tiles: int = 0, **limits: Any
) -> Future[Generation]:
    texts = [str(option) for option in options]
    return served.submit(Request("", options=texts, **limits), prompt(*content, tiles=tiles, options=options))


def values(generation: Generation) -> list[list[float]]:
    return [[*option.log_probs, option.end_log_prob] for option in generation.options]


def test_options_get_the_log_probabilities_of_their_tokens_and_end() -> None:
    served = engine(FakeRunner())

    future = choose(served, [5, 6], [[1, 2, 3], [4]])
    drive(served, future)

    result = future.result()
    assert values(result) == scores([5, 6], [[1, 2, 3], [4]])
    assert [(option.text, option.token_ids) for option in result.options] == [("[1, 2, 3]", [1, 2, 3]), ("[4]", [4])]
    best = max(result.options, key=lambda option: option.total)
    assert (result.text, result.token_ids, result.log_probs) == (best.text, best.token_ids, best.log_probs)
    assert [option.mean for option in result.options] == [
        pytest.approx(option.total / (len(option.token_ids) + 1)) for option in result.options
    ]


def test_answer_is_scored_as_the_only_option() -> None:
    served = engine(FakeRunner())

    future = served.submit(Request("", answer="given"), prompt(5, 6, options=[[1, 2]]))
    drive(served, future)

    assert values(future.result()) == scores([5, 6], [[1, 2]])
    assert future.result().text == "given"


@pytest.mark.parametrize("seed", range(20))
def test_scores_and_answers_do_not_depend_on_arrivals_cancellations_and_lengths(seed: int) -> None:
    chance = random.Random(seed)
    runner = FakeRunner(max_sequences=chance.randint(1, 5))
    served = engine(runner, prefill_tokens=chance.randint(1, 12), vision_tiles=chance.randint(1, 3))
    asked: list[tuple[list[int], Any, Future[Generation]]] = []
    for _ in range(30):
        content, tiles = [chance.randint(1, 9) for _ in range(chance.randint(1, 20))], chance.randint(0, 3)
        work: Any = chance.randint(1, 15)
        if chance.random() < 0.5:
            work = [[chance.randint(1, 9) for _ in range(chance.randint(1, 6))] for _ in range(chance.randint(1, 6))]
        asked.append((content, work, _submit(served, content, work, tiles)))
        for _ in range(chance.randint(0, 4)):
            served.step()
        if chance.random() < 0.2:
            chance.choice(asked)[2].cancel()

    drive(served, *(future for _, _, future in asked))

    for content, work, future in asked:
        if future.cancelled():
            continue
        if isinstance(work, int):
            assert (future.result().token_ids, future.result().log_probs) == (
                answer(content, work),
                log_probs(content, work),
            )
        else:
            assert values(future.result()) == scores(content, work)
    served.step()
    assert not any(runner.cached.values()), "a row was not cleared"


def _submit(served: Engine, content: list[int], work: Any, tiles: int) -> Future[Generation]:
    if isinstance(work, int):
        return ask(served, prompt(*content, tiles=tiles), work)
    return choose(served, content, work, tiles=tiles)


def test_running_requests_continue_between_the_steps_of_long_options() -> None:
    runner = FakeRunner(max_tokens=400)
    served = engine(runner, prefill_tokens=10)
    running = ask(served, prompt(1), count=300)
    served.step()

    scored = choose(served, [2], [[7] * 8] * 20)
    drive(served, scored)

    assert values(scored.result()) == scores([2], [[7] * 8] * 20)
    assert not running.done()
    assert len(runner.batches) >= 10, "a decode step beside at most two options"


def test_options_are_scored_in_batches_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "OPTION_TOKENS", 8)
    runner = FakeRunner()
    served = engine(runner)

    future = choose(served, [1, 2], [[3] * 3, [4] * 3, [5] * 3, [6] * 12, [7]])
    drive(served, future)

    assert runner.scored == [2, 1, 1, 1]
    assert values(future.result()) == scores([1, 2], [[3] * 3, [4] * 3, [5] * 3, [6] * 12, [7]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([[1] * 30, [2] * 30], "5 prompt tokens and 60 tokens of 2 options exceed the 64 .*: use fewer or shorter"),
        ([[1]] * 60, "60 tokens of 60 options exceed the 64"),
        ([[1], []], "invalid_question: an option has no tokens: send"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_the_remedy(options: list[list[int]], message: str) -> None:
    future = choose(engine(FakeRunner()), [1, 2, 3, 4, 5], options)

    with pytest.raises(PermanentFailure, match=message):
        future.result(timeout=1)


def test_options_and_an_answer_in_one_request_are_refused() -> None:
    future = engine(FakeRunner()).submit(Request("", options=["a"], answer="b"), prompt(1, options=[[1]]))

    with pytest.raises(PermanentFailure, match="options and an answer: send one"):
        future.result(timeout=1)


@pytest.mark.parametrize("runner", [FakeRunner(score_poison={5}), FakeRunner(infinite={5})])
def test_request_whose_options_fail_the_model_fails_alone(runner: FakeRunner) -> None:
    served = engine(runner)
    good, bad, after = ask(served, prompt(1), count=9), choose(served, [5], [[1], [2]]), choose(served, [6], [[1]])

    drive(served, good, bad, after)

    with pytest.raises(TransientFailure, match="model_error"):
        bad.result()
    assert good.result().token_ids == answer([1], 9)
    assert values(after.result()) == scores([6], [[1]])
    assert not any(runner.cached.values()), "a row was not cleared"


def test_out_of_memory_in_options_preempts_them_and_loses_no_request() -> None:
    runner = FakeRunner(option_memory=3)
    served = engine(runner)
    good, scored = ask(served, prompt(1), count=9), choose(served, [5], [[1] * 4, [2]])
    served.step()
    assert not scored.done()

    runner.option_memory = 100
    drive(served, good, scored)

    assert good.result().token_ids == answer([1], 9)
    assert values(scored.result()) == scores([5], [[1] * 4, [2]])


def test_cancelled_request_leaves_no_option_in_its_row() -> None:
    runner = FakeRunner()
    served = engine(runner, prefill_tokens=2)
    running, scored = ask(served, prompt(1), count=30), choose(served, [5], [[1, 2], [3, 4], [5, 6]])
    while not runner.scored:
        served.step()

    assert scored.cancel()
    served.step()

    assert [row for row, content in runner.cached.items() if content] == [0]
    drive(served, running)
    assert running.result().token_ids == answer([1], 30)


def test_options_after_the_deadline_are_a_failure_and_no_part_of_a_result() -> None:
    served = engine(FakeRunner(), prefill_tokens=1)
    future = choose(served, [5], [[1, 2], [3, 4]], deadline_seconds=0.05)
    served.step()
    served.step()

    threading.Event().wait(0.06)
    served.step()

    with pytest.raises(TransientFailure) as raised:
        future.result(timeout=1)
    assert raised.value.reason == Reason.OPTIONS_NOT_SCORED
