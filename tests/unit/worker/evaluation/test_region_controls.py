"""A region is supported only if it beats chance, the prior of the text and a tower with random weights."""

from __future__ import annotations

import numpy as np

from worker.evaluation.region_controls import Located, figures, prior


def located(row: int, patch: int, other: int | None = None, zone: str = "upper") -> Located:
    mask, others = np.zeros(16, np.bool_), np.zeros(16, np.bool_)
    mask[patch] = True
    if other is not None:
        others[other] = True
    return Located(row, "nodule left", ("nodule", "left", zone), mask, others)


def test_prior_is_the_patch_covered_most_often_for_the_place_in_the_text() -> None:
    references = [located(0, 3), located(1, 3), located(2, 5), located(3, 9, zone="lower")]

    assert prior(references) == {("nodule", "left", "upper"): 3, ("nodule", "left", "lower"): 9}


def test_region_that_hits_more_than_every_control_is_supported() -> None:
    found = [located(row, row % 8, 15) for row in range(64)]
    own, fixed = np.array([row % 8 for row in range(64)]), np.full(64, 2)

    measured = figures(found, own, fixed, fixed)

    assert (measured["hit"], measured["prior"], measured["random_tower"]) == (1.0, 0.125, 0.125)
    assert measured["chance"] == round(1 / 16, 4)
    assert measured["excess_over_prior"] == 0.875
    assert (measured["beside_others"], measured["hit_another"]) == (64, 0.0)
    assert measured["supported"]


def test_region_that_only_equals_the_prior_is_not_supported() -> None:
    found = [located(row, row % 2) for row in range(64)]
    always = np.zeros(64, np.int64)

    measured = figures(found, always, np.full(64, 9), always)

    assert measured["hit"] == measured["prior"] == 0.5
    assert not measured["supported"]


def test_region_of_another_finding_is_no_hit() -> None:
    found = [located(row, 1, 7) for row in range(8)]

    measured = figures(found, np.full(8, 7), np.zeros(8, np.int64), np.zeros(8, np.int64))

    assert (measured["hit"], measured["hit_another"], measured["supported"]) == (0.0, 1.0, False)
