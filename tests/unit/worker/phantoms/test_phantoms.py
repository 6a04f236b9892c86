"""Phantoms: the same seed draws the same image, and findings lie within their masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from worker.phantoms.cases import CATALOGUE, CHEST_RARE, Case, Finding, Kind, draw_case
from worker.phantoms.phantoms import CAREFUL, draw

QUIET = replace(CAREFUL, shift=0.0, degrees=0.0, contrast=(1.0, 1.0), noise=(0.0, 0.0))
EVERY_KIND = [(image, kind) for image, kinds in CATALOGUE.items() for kind in kinds]


def finding_of(kind: Kind, side: str = "left") -> Finding:
    return Finding(
        kind.name,
        side if kind.sided else "",
        "lower" if kind.zoned else "",
        kind.sizes[-1] if kind.sizes else "",
    )


@pytest.mark.parametrize("image", CATALOGUE)
def test_the_same_case_draws_the_same_image(image: str) -> None:
    case = draw_case(np.random.default_rng(3), image)

    assert (draw(case).rgb() == draw(case).rgb()).all()


@pytest.mark.parametrize("image", CATALOGUE)
def test_another_seed_draws_another_image(image: str) -> None:
    case = Case(image, 1)

    assert (draw(case).rgb() != draw(replace(case, seed=2)).rgb()).mean() > 0.05


@pytest.mark.parametrize(("image", "kind"), [*EVERY_KIND, *[("chest", kind) for kind in CHEST_RARE]])
def test_every_finding_changes_the_image_within_its_mask(image: str, kind: Kind) -> None:
    healthy = Case(image, 11)
    abnormal = replace(healthy, findings=(finding_of(kind),))

    mask = draw(abnormal, variation=QUIET).masks[kind.name] > 0.5

    assert 0 < mask.mean() < 0.6
    changed = np.abs(draw(abnormal, variation=QUIET).image - draw(healthy, variation=QUIET).image)[mask]
    assert np.percentile(changed, 99) > 0.05


@pytest.mark.parametrize("kind", [kind for kind in CATALOGUE["chest"] + CHEST_RARE if kind.sided])
def test_the_patients_left_is_on_the_viewers_right(kind: Kind) -> None:
    share = {}
    for side in ("left", "right"):
        case = Case("chest", 7, (finding_of(kind, side),))
        mask = draw(case, variation=QUIET).masks[kind.name]
        share[side] = mask[:, 64:].sum() / mask.sum()

    assert share["left"] > share["right"] + 0.2


@pytest.mark.parametrize("image", CATALOGUE)
def test_a_large_image_shrinks_to_the_small_one(image: str) -> None:
    case = draw_case(np.random.default_rng(5), image)
    small = draw(case, variation=CAREFUL).rgb()

    large = Image.fromarray(draw(case, size=512, variation=CAREFUL).rgb())

    difference = np.asarray(large.resize((128, 128), Image.Resampling.BICUBIC)).astype(int) - small
    assert np.abs(difference).mean() < 14


def test_a_lesion_of_the_head_is_visible_in_the_middle_of_the_volume_only() -> None:
    case = Case("ct", 4, (Finding("haemorrhage", "left"),))

    visible = [level for level in np.linspace(-0.9, 0.9, 24) if "haemorrhage" in draw(replace(case, level=level)).masks]

    assert 8 <= len(visible) <= 18
    assert -0.9 not in visible
    assert 0.9 not in visible
