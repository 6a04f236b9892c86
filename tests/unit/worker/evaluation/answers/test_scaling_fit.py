"""Fit of the confidence of answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from db.answers.scaling import DEFAULT_LIMIT, Scaling
from worker.evaluation.answers.scaling_fit import Told, fitted


def overconfident(count: int, seed: int = 0) -> list[Told]:
    """Answers whose confidence has three times the logit of the probability that they are right."""
    rng, told = np.random.default_rng(seed), []
    for _ in range(count):
        share = float(rng.uniform(0.6, 0.999))
        raw = 1 / (1 + math.exp(-3 * math.log(share / (1 - share))))
        told.append(Told(raw, bool(rng.random() < share)))
    return told


def test_overconfidence_is_scaled_down() -> None:
    found = fitted(overconfident(40_000), alpha=0.2, delta=0.1)

    assert found.scaling is not None
    assert found.scaling.slope == pytest.approx(1 / 3, abs=0.07)
    assert found.scaling.offset == pytest.approx(0, abs=0.2)


def test_limit_bounds_the_error_of_the_answers_that_are_told() -> None:
    violated = certified = 0
    for seed in range(30):
        found = fitted(overconfident(800, seed), alpha=0.15, delta=0.1)
        if found.scaling is None:
            continue
        certified += 1
        fresh = [
            one for one in overconfident(4000, 1000 + seed) if one.scaled(found.scaling) >= found.scaling.min_confidence
        ]
        violated += sum(not one.right for one in fresh) > 0.15 * len(fresh)

    assert certified >= 15
    assert violated <= 0.2 * certified


def test_kinds_of_inquiries_that_alternate_are_in_both_halves() -> None:
    alternating = [Told(0.97, right=True), Told(0.1, right=False)] * 200

    found = fitted(alternating, alpha=0.05, delta=0.1)

    assert found.scaling is not None
    assert found.scaling.of_one(0.1) < DEFAULT_LIMIT < found.scaling.of_one(0.97)


def test_temperature_of_a_choice_is_found() -> None:
    rng, told = np.random.default_rng(0), []
    for _ in range(600):
        true = rng.dirichlet([0.6] * 4)
        sharp = Scaling(2.0).of_several(np.log(np.maximum(true, 1e-9)).tolist())
        right = int(rng.choice(4, p=true))
        told.append(Told(max(sharp), int(np.argmax(sharp)) == right, sharp, right))

    found = fitted(told, alpha=0.4, delta=0.1)

    assert found.scaling is not None
    assert found.scaling.slope == pytest.approx(0.5, abs=0.12)


def test_right_answers_without_an_error_keep_the_default_limit() -> None:
    found = fitted([Told(0.97, right=True)] * 200, alpha=0.05, delta=0.1)

    assert found.scaling is not None
    assert found.scaling.min_confidence == DEFAULT_LIMIT
    assert found.scaling.of_one(0.97) > 0.9


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ([Told(0.9, right=True)] * 20, "0 of 10 answers are wrong; 98 more answers are needed"),
        ([Told(0.9, right=True)], "at least 2 are needed"),
        (
            [Told(0.9, right=False), Told(0.9, right=False), Told(0.6, right=True), Told(0.6, right=True)] * 50,
            "the confidence of wrong answers is not below",
        ),
    ],
)
def test_kind_that_cannot_be_calibrated_is_refused_with_the_reason(told: list[Told], reason: str) -> None:
    found = fitted(told, alpha=0.05, delta=0.1)

    assert found.scaling is None
    assert reason in found.reason
