"""Halvings of judged studies: what a certificate of one half is worth on the other."""

from __future__ import annotations

import math

from worker.evaluation.controls.halvings import COUNT, halvings
from worker.grounding.calibration import JudgedFinding


def judged(studies: int, *, wrong: int, margin: float | None = 1.0) -> list[JudgedFinding]:
    """A common finding in each study; those of the first *wrong* are wrong."""
    return [JudgedFinding(str(n), "common", margin, n >= wrong) for n in range(studies)]


def test_set_without_errors_is_certified_by_each_half_and_never_exceeded() -> None:
    found = halvings([*judged(200, wrong=0), JudgedFinding("0", "common", None, right=False)], alpha=0.05, delta=0.1)

    assert found.certified == {"common": COUNT}
    assert found.exceeded == 0
    assert 0.98 < min(found.coverage) < 1


def test_halves_with_an_error_above_alpha_are_counted() -> None:
    # Five in a hundred of all: some halves are certified, and then the other half has more.
    found = halvings(judged(400, wrong=16), alpha=0.05, delta=0.9)

    assert 0 < found.exceeded < found.certified["common"] <= COUNT
    assert max(found.errors) > 0.05
    assert f"above alpha {found.exceeded} times" in found.line()


def test_set_that_is_too_small_is_never_certified() -> None:
    found = halvings(judged(60, wrong=0), alpha=0.05, delta=0.1)

    assert found.certified == {}
    assert "certified no group" in found.line()
    assert math.isnan(found.figures()["lowest coverage"])
