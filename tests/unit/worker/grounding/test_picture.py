"""Picture score and region of a finding, and what the text omits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worker.findings.labeller import Label
from worker.grounding.picture import Box, Picture, region

LABELS = ("cardiomegaly ", "pleural effusion left", "pleural effusion right")


def picture(
    *scores: tuple[float, float, float],
    thresholds: tuple[float, float, float] = (1, 1, 1),
    omissions: tuple[float, float, float] = (1, 1, 1),
) -> Picture:
    """Images of four patches, each with a quarter of the score of each label, numbered from 3."""
    shares = np.repeat(np.array(scores, np.float32)[:, None] / 4, 4, axis=1)
    return Picture(LABELS, thresholds, omissions, shares, [3 + number for number in range(len(scores))])


def test_score_is_that_of_the_image_that_shows_the_finding_most() -> None:
    found = picture((0, 0.5, 0), (0, 2.5, 0), (0, 1.5, 0)).score("pleural effusion", "left")

    assert found is not None
    assert (found.score, found.threshold, found.image, found.shown) == (2.5, 1.0, 4, True)
    assert sum(found.shares) == pytest.approx(found.score)


def test_label_that_the_reference_set_lacks_is_not_measurable_and_not_zero() -> None:
    measured = picture((2, 2, 2))

    assert measured.score("pneumothorax", "left") is None
    assert measured.score("cardiomegaly", "left") is None
    assert Picture().score("cardiomegaly", "") is None


def test_finding_without_a_side_takes_the_side_that_exceeds_its_threshold_most() -> None:
    found = picture((0, 2.0, 2.2), thresholds=(1, 1, 2)).score("pleural effusion", "")

    assert found is not None
    assert found.side == "left"


def test_what_the_image_shows_and_the_text_does_not_mention_is_omitted() -> None:
    shown = picture((2, 2, 2))

    omitted = shown.omitted([Label("cardiomegaly", certainty="absent"), Label("pleural effusion", "left")])

    assert [(score.finding, score.side) for score in omitted] == [("pleural effusion", "right")]
    assert not shown.omitted([Label("cardiomegaly"), Label("pleural effusion")])
    assert not picture((0.5, 0.5, 0.5)).omitted([])


def test_only_a_reliable_score_is_listed_as_omitted() -> None:
    shown = picture((2, 2, 2), omissions=(3, 2, math.inf))

    assert [(score.finding, score.side) for score in shown.omitted([])] == [("pleural effusion", "left")]


def test_label_without_a_threshold_is_not_measurable_and_never_omitted() -> None:
    unknown = picture((9, 9, 9), thresholds=(math.nan, math.nan, 1), omissions=(math.inf, math.inf, 1))

    assert unknown.score("cardiomegaly", "") is None
    assert unknown.score("pleural effusion", "left") is None
    assert [(score.finding, score.side) for score in unknown.omitted([])] == [("pleural effusion", "right")]


def test_region_is_the_smallest_rectangle_with_most_of_the_positive_shares() -> None:
    shares = np.full((8, 8), -1.0)
    shares[2:4, 5:8] = 1.0
    shares[7, 0] = 0.5

    box = region(shares.ravel().tolist())

    # Four of 6.5: two rows of two columns.
    assert box is not None
    assert box.width * box.height == pytest.approx(4 / 64)
    assert 2 / 8 <= box.top < 4 / 8
    assert box.left >= 5 / 8


@pytest.mark.parametrize("seed", range(5))
def test_region_holds_the_mass_and_no_smaller_one_does(seed: int) -> None:
    shares = np.random.default_rng(seed).normal(0, 1, (4, 4))
    positive = np.maximum(shares, 0)

    box = region(shares.ravel().tolist())

    assert box is not None
    inside = {
        (top, left, height, width): positive[top : top + height, left : left + width].sum()
        for top in range(4)
        for left in range(4)
        for height in range(1, 5 - top)
        for width in range(1, 5 - left)
    }
    enough = {key: mass for key, mass in inside.items() if mass >= 0.6 * positive.sum() - 1e-9}
    key = tuple(round(4 * value) for value in (box.top, box.left, box.height, box.width))
    smallest = min(height * width for _, _, height, width in enough)
    assert key[2] * key[3] == smallest
    assert enough[key] == max(mass for other, mass in enough.items() if other[2] * other[3] == smallest)


def test_one_patch_is_a_region_and_nothing_positive_is_none() -> None:
    assert region([0.0, 0.0, 3.0, 0.0]) == Box(0.0, 0.5, 0.5, 0.5)
    assert region([-1.0] * 4) is None
    assert region([1.0] * 6) is None
    assert region([]) is None
