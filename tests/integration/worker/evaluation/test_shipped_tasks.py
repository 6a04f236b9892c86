"""The demo checkpoint of the repository answers questions and chooses between diagnoses as its card says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from deploy.demo.demo import CHECKPOINT
from worker.model.engine.request import Request
from worker.model.resident_model import ResidentModel
from worker.phantoms import choices
from worker.phantoms.cases import CATALOGUE
from worker.phantoms.questions import NO, Asker
from worker.prompting.diagnosis import Choice, Guidance, diagnosis_prompt
from worker.prompting.question import question_prompt
from worker.prompting.wording import CANNOT_TELL
from worker.training.train import PROMPT_VERSION
from worker.training.training_cases import MODALITY, Pool, Sample, Share, case_of, make_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.phantoms.questions import Question

    Advise = Callable[[Sample, choices.DrawnChoice], Guidance]

SEED = 3_900_000
UNANSWERABLE = {"absent", "unknown"}


@pytest.fixture(scope="module")
def model() -> Iterator[ResidentModel]:
    loaded = ResidentModel.load(CHECKPOINT, device="cpu")
    yield loaded
    loaded.close()


def fresh(chests: int, others: int) -> Pool:
    shares = [Share(family, chests if family == "chest" else others, mixed=False) for family in CATALOGUE]
    return make_pool(shares, seed=SEED)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return fresh(24, 6)


def images(pool: Pool, sample: Sample) -> list[np.ndarray]:
    return [pool.images[row] for row in sample.rows]


def right(model: ResidentModel, pool: Pool, asked: list[tuple[Sample, Question]]) -> list[bool]:
    """Answer questions about samples of *pool*; return whether each answer is right."""
    requests = [
        Request(question_prompt(MODALITY[sample.family][0], one.text), images(pool, sample), 20)
        for sample, one in asked
    ]
    answers = [answer.result(60).text.strip() for answer in [model.submit(request) for request in requests]]
    return [
        answer == one.answer or (one.kind in UNANSWERABLE and answer in {CANNOT_TELL, NO})
        for (_, one), answer in zip(asked, answers, strict=True)
    ]


def chosen(model: ResidentModel, pool: Pool, advise: Advise, *, removed: bool) -> float:
    """Return the share of right choices with the guidance that *advise* returns."""
    rng = np.random.default_rng(SEED)
    drawn = [(sample, choices.choose(case_of(sample), rng, removed=removed)) for sample in pool.samples]
    offered = [(sample, one, Choice(one.options)) for sample, one in drawn if len(one.options) > 1]
    requests = [
        Request(
            diagnosis_prompt(*MODALITY[sample.family], choice, advise(sample, one), version=PROMPT_VERSION),
            images(pool, sample),
            options=choice.offered(PROMPT_VERSION),
        )
        for sample, one, choice in offered
    ]
    futures = [model.submit(request) for request in requests]
    best = [max(future.result(60).options, key=lambda option: option.total).text for future in futures]
    return float(np.mean([text == one.answers[0] for text, (_, one, _) in zip(best, offered, strict=True)]))


def none(_: Sample, __: choices.DrawnChoice) -> Guidance:
    return Guidance()


def all_wrong(sample: Sample, one: choices.DrawnChoice) -> Guidance:
    rng = np.random.default_rng(sample.rows[0])
    return Guidance([choices.wrong_label(case_of(sample), rng, one.options)] * 10)


def test_questions_and_choices_about_some_fresh_images_are_answered(model: ResidentModel) -> None:
    pool, asker = fresh(6, 1), Asker(np.random.default_rng(SEED), held_out=True)
    asks = (asker.ask, asker.side, asker.absent)
    asked = [(sample, one) for sample in pool.samples for ask in asks if (one := ask(case_of(sample)))]

    assert np.mean(right(model, pool, asked)) >= 0.85
    assert chosen(model, pool, all_wrong, removed=False) >= 0.75
    assert chosen(model, pool, none, removed=True) >= 0.75


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_questions_in_wordings_held_out_are_answered_from_the_images(model: ResidentModel, pool: Pool) -> None:
    asker = Asker(np.random.default_rng(SEED), held_out=True)
    asked = [(sample, asker.ask(case_of(sample))) for sample in pool.samples * 4]

    results = right(model, pool, asked)

    unanswerable = [one.kind in UNANSWERABLE for _, one in asked]
    assert np.mean([ok for ok, hidden in zip(results, unanswerable, strict=True) if not hidden]) >= 0.9
    assert np.mean([ok for ok, hidden in zip(results, unanswerable, strict=True) if hidden]) >= 0.93


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["side", "absent"])
def test_sides_are_told_and_those_of_absent_findings_are_not(model: ResidentModel, pool: Pool, kind: str) -> None:
    ask = getattr(Asker(np.random.default_rng(SEED), held_out=True), kind)
    asked = [(sample, one) for sample in pool.samples * 4 if (one := ask(case_of(sample)))]

    assert len(asked) > 60
    assert np.mean(right(model, pool, asked)) >= 0.93


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("advise", "removed"), [(none, False), (all_wrong, False), (none, True)])
def test_diagnoses_are_right_whatever_the_guidance_says(
    model: ResidentModel, pool: Pool, advise: Advise, removed: bool
) -> None:
    assert chosen(model, pool, advise, removed=removed) >= 0.9
