"""Pooling: what is unusual at its place decides the vector, and how much of it there is decides z."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from db.errors import ConfigurationError
from worker.retrieval import features
from worker.retrieval.features import Usual

if TYPE_CHECKING:
    from pathlib import Path

RNG = np.random.default_rng(0)
PLACES = RNG.normal(0, 3, (3, 16, 8))


def tokens(count: int, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    return (PLACES + np.random.default_rng(seed).normal(0, 1, (count, 3, 16, 8))).astype(np.float32)


def usual() -> Usual:
    return features.fit([tokens(150, 1), tokens(150, 2)])


def test_statistics_do_not_depend_on_how_the_images_are_batched() -> None:
    whole = tokens(60, 3)

    once, split = features.fit([whole]), features.fit([whole[:7], whole[7:]])

    assert np.allclose(once.mean, split.mean, atol=1e-5)
    assert np.allclose(once.spread, split.spread, atol=1e-5)


def test_images_with_the_same_oddity_are_neighbours_wherever_else_they_differ() -> None:
    images = tokens(40, 4)
    images[:2, :, 5] += np.linspace(-6, 6, 8, dtype=np.float32)

    vectors = features.embed(images, usual())

    similarities = vectors @ vectors[0]
    assert np.argsort(-similarities)[1] == 1
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_usual_images_have_a_z_of_about_one_and_others_are_strange() -> None:
    known = usual()

    assert np.allclose(features.z(tokens(50, 5), known), 1, atol=0.2)
    assert (features.z(tokens(50, 6)[:, :, ::-1], known) > known.limit).all()


@pytest.mark.parametrize("layer", [1, 2])
def test_a_image_is_strange_that_is_unlike_at_either_depth(layer: int) -> None:
    known, images = usual(), tokens(20, 22)
    images[:, layer] = images[:, layer, ::-1]

    assert (features.z(images, known) > known.limit).all()


def test_a_few_reference_images_borrow_their_spread_from_everywhere() -> None:
    few = features.fit([tokens(3, 7)])

    assert few.spread.min() > 0.3
    assert (features.z(tokens(20, 8), few) < few.limit).mean() > 0.9


def test_however_few_the_reference_images_are_new_ones_of_their_kind_are_seldom_refused() -> None:
    for count in (20, 60, 300):
        known = features.fit([tokens(count, 15)])

        assert (features.z(tokens(200, 16), known) > known.limit).mean() <= 0.02


def test_channels_that_vary_together_by_chance_in_a_few_images_refuse_no_genuine_ones() -> None:
    def wide(count: int, seed: int) -> np.ndarray:  # type: ignore[type-arg]
        rng = np.random.default_rng(seed)
        # A few directions common to all places, as an image's exposure is.
        return (0.7 * rng.normal(0, 1, (count, 3, 1, 64)) + rng.normal(0, 1, (count, 3, 16, 64))).astype(np.float32)

    known = features.fit([wide(40, 24)])

    assert (features.z(wide(200, 25), known) > known.limit).mean() <= 0.02


def test_towers_of_one_layer_make_vectors_and_refuse_too() -> None:
    known = features.fit([tokens(60, 26)[:, :1]])
    fresh = tokens(20, 27)[:, :1]

    assert features.embed(fresh, known).shape == (20, 8)
    assert (features.z(fresh, known) <= known.limit).all()
    assert (features.z(fresh[:, :, ::-1], known) > known.limit).all()


def test_the_limit_is_wider_where_the_images_of_a_kind_differ_more() -> None:
    louder = np.random.default_rng(17).uniform(0.5, 2, (200, 1, 1, 1)).astype(np.float32)

    various = features.fit([PLACES.astype(np.float32) + (tokens(200, 18) - PLACES.astype(np.float32)) * louder])

    assert various.limit > 1.3 * features.fit([tokens(200, 18)]).limit


def test_labels_bring_cases_together_that_louder_oddities_would_part() -> None:
    marked, loud = np.zeros((200, 3, 16, 8), np.float32), np.zeros((200, 3, 16, 8), np.float32)
    rng = np.random.default_rng(11)
    marked[:20, :, 3, :4] = 5.0
    loud[np.arange(200), :, rng.integers(0, 16, 200)] = rng.normal(0, 6, (200, 1, 8))
    images = tokens(200, 12) + marked + loud
    told = [{"coin"} if number < 20 else set() for number in range(200)]
    query = tokens(1, 13) + marked[:1] + loud[150:151]

    def neighbours(known: Usual) -> list[int]:
        vectors = features.embed(images, known)
        return [int(row) for row in np.argsort(-vectors @ features.embed(query, known)[0])[:3]]

    assert sum(row < 20 for row in neighbours(features.fit([images], told))) >= 2
    assert sum(row < 20 for row in neighbours(features.fit([images]))) < 2


def test_a_larger_tower_costs_the_regression_no_more() -> None:
    rng = np.random.default_rng(14)
    large = rng.normal(0, 1, (6, 3, 1024, 200)).astype(np.float32)

    known = features.fit([large], [{"nodule"}] * 3 + [set()] * 3)

    assert known.weights.shape == (8 * 8 * 192, 1)
    assert features.embed(large, known).shape == (6, features.length(known))


def test_one_image_is_too_few() -> None:
    with pytest.raises(ConfigurationError, match="two reference cases"):
        features.fit([tokens(1, 9)])


def test_statistics_survive_the_disk(tmp_path: Path) -> None:
    known = usual()
    known.save(tmp_path / "usual.npz")

    again = Usual.load(tmp_path / "usual.npz")

    assert (features.embed(tokens(4, 10), again) == features.embed(tokens(4, 10), known)).all()
    assert again.images == 300


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "usual.npz").write_bytes(b"rubbish")

    with pytest.raises(ConfigurationError, match="build the reference index again"):
        Usual.load(tmp_path / "usual.npz")


def test_reference_images_that_are_all_the_same_know_each_other_and_nobody_else() -> None:
    same = np.repeat(tokens(1, 19), 25, axis=0)

    known = features.fit([same])

    assert (features.z(same, known) <= known.limit).all()
    assert (features.z(tokens(5, 20), known) > known.limit).all()


def test_similar_begins_halfway_between_any_two_cases_and_two_nearest_ones() -> None:
    axes = np.eye(60, dtype=np.float32)
    pairs = np.concatenate([axes[:30], 0.8 * axes[:30] + 0.6 * axes[30:]])

    assert features.least_similarity(pairs, np.arange(60)) == pytest.approx(0.4)


def test_cases_of_one_kind_are_similar_and_no_others() -> None:
    rng = np.random.default_rng(21)
    kinds = rng.normal(0, 1, (20, 50))
    cases = np.repeat(kinds, 60, axis=0) + rng.normal(0, 0.3, (1200, 50))
    vectors = (cases / np.linalg.norm(cases, axis=1, keepdims=True)).astype(np.float32)

    least = features.least_similarity(vectors, np.arange(1200))

    same = np.arange(1200)[:, None] // 60 == np.arange(1200) // 60
    assert ((vectors @ vectors.T >= least) == same).mean() > 0.99


def test_where_most_cases_are_alike_the_few_others_may_still_be_similar() -> None:
    axes = np.eye(10, dtype=np.float32)
    pair = np.stack([axes[1], 0.6 * axes[1] + 0.8 * axes[2]])

    alike = np.concatenate([np.repeat(axes[:1], 40, axis=0), pair])

    assert features.least_similarity(alike, np.arange(42)) < 0.6


def test_a_patients_own_cases_do_not_make_others_unlike() -> None:
    rng = np.random.default_rng(23)
    kinds = np.repeat(rng.normal(0, 1, (10, 50)), 10, axis=0) + rng.normal(0, 1, (100, 50))
    vectors = (kinds / np.linalg.norm(kinds, axis=1, keepdims=True)).astype(np.float32)

    once = features.least_similarity(vectors, np.arange(100))
    followed_up = features.least_similarity(np.repeat(vectors, 2, axis=0), np.repeat(np.arange(100), 2))

    assert followed_up == pytest.approx(once)
    assert once < 0.45


def test_cases_of_too_few_patients_cannot_tell_what_is_similar() -> None:
    axes = np.eye(60, dtype=np.float32)

    assert features.least_similarity(axes[:19], np.arange(19)) == -1
    assert features.least_similarity(axes[:20], np.arange(20)) == 0
    assert features.least_similarity(axes, np.arange(60) // 4) == -1
