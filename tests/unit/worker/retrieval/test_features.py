"""Feature statistics: vectors follow the deviations of an image; scores follow their size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from db.errors import ConfigurationError
from worker.retrieval import label_regression
from worker.retrieval.features import FeatureStats, Origin, min_similarity
from worker.retrieval.label_regression import RIDGES, FittedImages

if TYPE_CHECKING:
    from pathlib import Path

RNG = np.random.default_rng(0)
POSITIONS = RNG.normal(0, 3, (3, 16, 8))


def tokens(count: int, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    return (POSITIONS + np.random.default_rng(seed).normal(0, 1, (count, 3, 16, 8))).astype(np.float32)


def stats() -> FeatureStats:
    return FeatureStats.fit([tokens(150, 1), tokens(150, 2)])


def test_statistics_do_not_depend_on_batching() -> None:
    whole = tokens(60, 3)

    once, split = FeatureStats.fit([whole]), FeatureStats.fit([whole[:7], whole[7:]])

    assert np.allclose(once.mean, split.mean, atol=1e-5)
    assert np.allclose(once.std, split.std, atol=1e-5)


def test_images_with_the_same_abnormality_are_neighbours() -> None:
    images = tokens(40, 4)
    images[:2, :, 5] += np.linspace(-6, 6, 8, dtype=np.float32)

    vectors = stats().embed(images)

    similarities = vectors @ vectors[0]
    assert np.argsort(-similarities)[1] == 1
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_reference_images_score_about_one_and_others_above_the_threshold() -> None:
    known = stats()

    assert np.allclose(known.score(tokens(50, 5)), 1, atol=0.2)
    assert (known.score(tokens(50, 6)[:, :, ::-1]) > known.threshold).all()


@pytest.mark.parametrize("layer", [1, 2])
def test_an_image_that_differs_at_one_depth_is_out_of_distribution(layer: int) -> None:
    known, images = stats(), tokens(20, 22)
    images[:, layer] = images[:, layer, ::-1]

    assert (known.score(images) > known.threshold).all()


def test_few_reference_images_share_a_deviation_over_all_positions() -> None:
    few = FeatureStats.fit([tokens(3, 7)])

    assert few.std.min() > 0.3
    assert (few.score(tokens(20, 8)) < few.threshold).mean() > 0.9


def test_new_images_are_in_distribution_for_reference_sets_of_any_size() -> None:
    for count in (20, 60, 300):
        known = FeatureStats.fit([tokens(count, 15)])

        assert (known.score(tokens(200, 16)) > known.threshold).mean() <= 0.02


def test_chance_correlations_in_few_images_reject_no_genuine_images() -> None:
    def wide(count: int, seed: int) -> np.ndarray:  # type: ignore[type-arg]
        rng = np.random.default_rng(seed)
        # A few directions common to all places, as an image's exposure is.
        return (0.7 * rng.normal(0, 1, (count, 3, 1, 64)) + rng.normal(0, 1, (count, 3, 16, 64))).astype(np.float32)

    known = FeatureStats.fit([wide(40, 24)])

    assert (known.score(wide(200, 25)) > known.threshold).mean() <= 0.02


def test_towers_with_one_layer_are_supported() -> None:
    known = FeatureStats.fit([tokens(60, 26)[:, :1]])
    fresh = tokens(20, 27)[:, :1]

    assert known.embed(fresh).shape == (20, 8)
    assert (known.score(fresh) <= known.threshold).all()
    assert (known.score(fresh[:, :, ::-1]) > known.threshold).all()


def test_varied_reference_images_accept_more() -> None:
    louder = np.random.default_rng(17).uniform(0.5, 2, (200, 1, 1, 1)).astype(np.float32)
    typical = POSITIONS.astype(np.float32)
    various = FeatureStats.fit([typical + (tokens(200, 18) - typical) * louder])
    loud = typical + (tokens(40, 30) - typical) * 1.7

    assert (FeatureStats.fit([tokens(200, 18)]).score(loud) > 1.3).all()
    assert (various.score(loud) <= various.threshold).mean() > 0.95


def test_views_of_the_reference_images_widen_what_is_accepted() -> None:
    # What all images of a site share, and another exposure changes.
    exposed = tokens(60, 31) + 2.0
    plain = FeatureStats.fit([tokens(60, 32)])
    seen = [(image[1:].astype(np.float16), Origin(str(number))) for number, image in enumerate(tokens(60, 33) + 2.0)]
    widened = FeatureStats.fit([tokens(60, 32)], origins=[Origin(str(number)) for number in range(60)], views=seen)

    assert (plain.score(exposed) > plain.threshold).all()
    assert (widened.score(exposed) <= widened.threshold).mean() >= 0.95


def test_scrambled_positions_are_out_of_distribution() -> None:
    """Every patch of the image is usual at its place, their combination is not."""
    pose = np.random.default_rng(34).normal(0, 1, (400, 2)).astype(np.float32)
    shapes = np.random.default_rng(35).normal(0, 2, (2, 3, 16, 8)).astype(np.float32)
    moved = tokens(400, 36) * 0.3 + np.einsum("ij,jkpc->ikpc", pose, shapes)
    known = FeatureStats.fit([moved[:300]])
    mixed = moved[300:].copy()
    for place in range(16):
        mixed[:, :, place] = moved[300 + (np.arange(100) + place * 7) % 100, :, place]

    assert (known.score(moved[300:]) <= known.threshold).mean() >= 0.95
    assert (known.score(mixed) > known.threshold).mean() >= 0.95


def test_labels_outweigh_larger_unrelated_deviations() -> None:
    marked, loud = np.zeros((200, 3, 16, 8), np.float32), np.zeros((200, 3, 16, 8), np.float32)
    rng = np.random.default_rng(11)
    marked[:20, :, 3, :4] = 5.0
    loud[np.arange(200), :, rng.integers(0, 16, 200)] = rng.normal(0, 6, (200, 1, 8))
    images = tokens(200, 12) + marked + loud
    labels = [{"coin"} if number < 20 else set() for number in range(200)]
    query = tokens(1, 13) + marked[:1] + loud[150:151]

    def neighbours(known: FeatureStats) -> list[int]:
        vectors = known.embed(images)
        return [int(row) for row in np.argsort(-vectors @ known.embed(query)[0])[:3]]

    assert sum(row < 20 for row in neighbours(FeatureStats.fit([images], labels))) >= 2
    assert sum(row < 20 for row in neighbours(FeatureStats.fit([images]))) < 2


def test_regression_size_is_bounded_for_large_towers() -> None:
    rng = np.random.default_rng(14)
    large = rng.normal(0, 1, (6, 3, 1024, 200)).astype(np.float32)

    known = FeatureStats.fit([large], [{"nodule"}] * 3 + [set()] * 3)

    assert known.weights.shape == (8 * 8 * 192, 1)
    assert known.embed(large).shape == (6, known.vector_length)


def test_equal_images_tell_no_label_apart() -> None:
    """An archive may hold empty images only; its cases are searched without labels."""
    even = np.ones((12, 3, 16, 8), np.float32)

    known = FeatureStats.fit([even], [{"nodule left"} if number < 6 else set() for number in range(12)])

    assert known.label_names == ()
    assert known.label_shares(even).shape == (12, 16, 0)
    assert (known.score(even) <= known.threshold).all()
    assert (known.score(tokens(12, 1)) > known.threshold).all()


def test_a_single_image_is_rejected() -> None:
    with pytest.raises(ConfigurationError, match="each modality needs two or more"):
        FeatureStats.fit([tokens(1, 9)])


def test_saved_statistics_load_unchanged(tmp_path: Path) -> None:
    known = stats()
    known.save(tmp_path / "stats.npz")

    again = FeatureStats.load(tmp_path / "stats.npz")

    assert (again.embed(tokens(4, 10)) == known.embed(tokens(4, 10))).all()
    assert again.images == 300


def test_files_on_disk_keep_their_format(tmp_path: Path) -> None:
    known = stats()
    detector = known.detector
    np.savez(
        tmp_path / "stats.npz",
        mean=known.mean,
        spread=known.std,
        weights=known.weights,
        labels=np.array([], np.str_),
        label_thresholds=np.zeros(0, np.float32),
        omission_thresholds=np.zeros(0, np.float32),
        parts=np.array([], np.str_),
        pictures=300,
        gate_mean=detector.mean,
        gate_spread=detector.std,
        gate_metric=detector.precision,
        gate_components=detector.components,
        gate_usual=detector.limits,
        gate_limit=detector.threshold,
    )

    again = FeatureStats.load(tmp_path / "stats.npz")

    assert (again.score(tokens(4, 10)) == known.score(tokens(4, 10))).all()
    assert again.threshold == known.threshold


def test_columns_of_the_regression_keep_the_names_of_their_labels(tmp_path: Path) -> None:
    marked = tokens(60, 21)
    marked[:20, :, 3] += 5.0
    labels = [{"nodule left"} if number < 20 else {"cardiomegaly "} for number in range(60)]
    FeatureStats.fit([marked], labels).save(tmp_path / "stats.npz")

    again = FeatureStats.load(tmp_path / "stats.npz")

    assert again.label_names == ("cardiomegaly ", "nodule left")
    scores = again.embed(marked)[:, :2]
    assert scores[:20, 1].mean() > 0 > scores[20:, 1].mean()
    assert scores[:20, 0].mean() < 0 < scores[20:, 0].mean()


def test_shares_of_the_patches_sum_to_the_score_of_the_label_and_lie_where_it_is() -> None:
    marked = tokens(60, 21)
    marked[:20, :, 3] += 5.0
    known = FeatureStats.fit([marked], [{"nodule left"} if number < 20 else set() for number in range(60)])

    shares = known.label_shares(marked[:1])

    assert shares.shape == (1, 16, 1)
    assert shares[0, :, 0].argmax() == 3
    # `embed` scales the scores and the vector: both have the same sign and order.
    scores = known.label_shares(marked).sum(axis=1)[:, 0]
    inputs = ((marked[:, -1] - known.mean[-1]) / known.std[-1]).reshape(60, -1)
    np.testing.assert_allclose(scores, (inputs @ known.weights)[:, 0], rtol=1e-4, atol=1e-4)


def test_threshold_of_a_label_lies_between_images_with_and_without_it(tmp_path: Path) -> None:
    marked, fresh = tokens(120, 21), tokens(60, 31)
    marked[:40, :, 3] += 3.0
    fresh[:20, :, 3] += 3.0
    FeatureStats.fit([marked], [{"nodule left"} if n < 40 else set() for n in range(120)]).save(tmp_path / "s.npz")

    known = FeatureStats.load(tmp_path / "s.npz")

    scores = known.label_shares(fresh).sum(axis=1)[:, 0]
    assert (scores[:20] >= known.label_thresholds[0]).all()
    assert (scores[20:] < known.label_thresholds[0]).all()


def test_label_of_few_patients_has_no_threshold_however_many_images_they_have() -> None:
    marked = tokens(120, 21)
    marked[:40, :, 3] += 3.0
    labels = [{"nodule left"} if n < 40 else set() for n in range(120)]

    def known(patients: int) -> FeatureStats:
        """Statistics of 40 images with the label, of so many patients, and 80 of as many patients without it."""
        return FeatureStats.fit(
            [marked], labels, origins=[Origin(str(n % patients if n < 40 else n)) for n in range(120)]
        )

    few, some, more = (known(patients) for patients in (4, 5, 8))

    assert few.label_names == ("nodule left",)
    assert np.isnan(few.label_thresholds[0])
    assert np.isfinite([some.label_thresholds[0], more.label_thresholds[0]]).all()
    assert np.isinf([few.omission_thresholds[0], some.omission_thresholds[0]]).all()
    assert np.isfinite(more.omission_thresholds[0])


def test_label_that_images_do_not_show_is_never_reliable_as_an_omission() -> None:
    known = FeatureStats.fit([tokens(120, 21)], [{"nodule left"} if n < 40 else set() for n in range(120)])

    assert known.label_names == ("nodule left",)
    assert np.isinf(known.omission_thresholds[0])


def test_threshold_of_a_label_is_that_of_a_case_although_some_of_its_images_do_not_show_it() -> None:
    def cases(count: int, seed: int) -> np.ndarray:  # type: ignore[type-arg]
        """Two images of each case; half of the cases show the finding, in their first image."""
        images = tokens(2 * count, seed)
        images[:count:2, :, 3] += 8.0
        return images

    def right(known: FeatureStats) -> float:
        highest = known.label_shares(cases(40, 43)).sum(axis=1)[:, 0].reshape(40, 2).max(axis=1)
        return float(((highest >= known.label_thresholds[0]) == (np.arange(40) < 20)).mean())

    images, labels = cases(300, 41), [{"nodule left"} if n < 300 else set() for n in range(600)]

    assert right(FeatureStats.fit([images], labels, origins=[Origin(str(n // 2)) for n in range(600)])) >= 0.9
    assert right(FeatureStats.fit([images], labels)) < 0.7


def volumes(patients: int, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    """Eight images of each patient, which look alike; every fourth patient has the finding, in half of its images."""
    images = tokens(patients, seed).repeat(8, axis=0) + 0.5 * (tokens(8 * patients, seed + 1) - POSITIONS)
    for first in range(0, 8 * patients, 32):
        images[first + 2 : first + 6, :, 3] += 3.0
    return images.astype(np.float32)


def of_volumes(patients: int) -> FeatureStats:
    labels = [{"nodule left"} if n // 8 % 4 == 0 else set() for n in range(8 * patients)]
    return FeatureStats.fit([volumes(patients, 41)], labels, [Origin(str(n // 8)) for n in range(8 * patients)])


def wrong_scores(known: FeatureStats) -> float:
    """Share of 200 other patients on the wrong side of the threshold."""
    scores = known.label_shares(volumes(200, 51)).sum(axis=1)[:, 0].reshape(200, 8).max(axis=1)
    return float(((scores >= known.label_thresholds[0]) != (np.arange(200) % 4 == 0)).mean())


def test_patients_left_out_of_the_regression_decide_how_much_it_is_regularised(monkeypatch: pytest.MonkeyPatch) -> None:
    several = of_volumes(60)
    marked = tokens(60, 21)
    marked[:20, :, 3] += 5.0
    labels = [{"nodule left"} if number < 20 else set() for number in range(60)]
    clear = FeatureStats.fit([marked], labels)

    monkeypatch.setattr(label_regression, "RIDGES", RIDGES[:1])

    # Alike images of few patients need more than the least; where it suffices, it is taken.
    assert wrong_scores(several) < wrong_scores(of_volumes(60)) - 0.05
    np.testing.assert_array_equal(clear.weights, FeatureStats.fit([marked], labels).weights)


def test_scores_without_patients_are_those_of_a_regression_fitted_without_their_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_regression, "RIDGES", (0.05,))
    marked, owners = tokens(60, 21), [str(number // 2) for number in range(60)]
    marked[:20, :, 3] += 2.0
    labels = [{"nodule left"} if number < 20 else {"cardiomegaly "} if number % 3 else set() for number in range(60)]
    known = FeatureStats.fit([marked], labels, origins=[Origin(owner) for owner in owners])
    assert known.fitted_images is not None
    known.fitted_images.save(tmp_path / "fitted.npy")

    weights, count = replace(known, fitted_images=FittedImages.load(tmp_path / "fitted.npy")).weights_without(
        {"0", "1", "14", "of no case"}
    )

    # The same system of equations without the six rows.
    inputs = ((marked[:, -1] - known.mean[-1]) / known.std[-1]).reshape(60, -1).astype(np.float64)
    present = np.array([[name in names for name in known.label_names] for names in labels])
    system = inputs @ inputs.T / inputs.shape[1]
    system += 0.05 * np.trace(system) / 60 * np.eye(60)
    targets = present - present.mean(axis=0)
    rows = [number for number, owner in enumerate(owners) if owner not in ("0", "1", "14")]
    every, left = (
        inputs[kept].T @ np.linalg.solve(system[np.ix_(kept, kept)], targets[kept]) for kept in (list(range(60)), rows)
    )
    unit = np.median(every / known.weights, axis=0) / inputs.shape[1]
    assert count == 6
    np.testing.assert_allclose(weights, left / inputs.shape[1] / unit, atol=2e-3 * np.abs(known.weights).max())
    assert np.abs(weights - known.weights).max() > 0.05 * np.abs(known.weights).max()


def test_scores_are_those_of_all_images_if_none_would_be_left() -> None:
    marked = tokens(60, 21)
    marked[:20, :, 3] += 2.0
    of_one = [Origin("one")] * 60
    known = FeatureStats.fit([marked], [{"nodule left"} if n < 20 else set() for n in range(60)], origins=of_one)

    weights, count = known.weights_without({"one"})

    assert count == 0
    assert (weights == known.weights).all()


def test_reference_set_without_labels_has_no_shares() -> None:
    assert stats().label_shares(tokens(2, 9)).shape == (2, 16, 0)


def test_a_file_without_names_of_labels_must_be_built_again(tmp_path: Path) -> None:
    stats().save(tmp_path / "stats.npz")
    with np.load(tmp_path / "stats.npz") as stored:
        np.savez(tmp_path / "old.npz", **{key: stored[key] for key in stored if key != "labels"})

    with pytest.raises(ConfigurationError, match="build the reference index again"):
        FeatureStats.load(tmp_path / "old.npz")


def test_a_damaged_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "stats.npz").write_bytes(b"rubbish")

    with pytest.raises(ConfigurationError, match="build the reference index again"):
        FeatureStats.load(tmp_path / "stats.npz")


def test_identical_reference_images_accept_only_themselves() -> None:
    same = np.repeat(tokens(1, 19), 25, axis=0)

    known = FeatureStats.fit([same])

    assert (known.score(same) <= known.threshold).all()
    assert (known.score(tokens(5, 20)) > known.threshold).all()


def test_min_similarity_is_midway_between_unrelated_and_nearest_cases() -> None:
    axes = np.eye(60, dtype=np.float32)
    pairs = np.concatenate([axes[:30], 0.8 * axes[:30] + 0.6 * axes[30:]])

    assert min_similarity(pairs, np.arange(60)) == pytest.approx(0.4)


def test_min_similarity_separates_clusters() -> None:
    rng = np.random.default_rng(21)
    kinds = rng.normal(0, 1, (20, 50))
    cases = np.repeat(kinds, 60, axis=0) + rng.normal(0, 0.3, (1200, 50))
    vectors = (cases / np.linalg.norm(cases, axis=1, keepdims=True)).astype(np.float32)

    threshold = min_similarity(vectors, np.arange(1200))

    same = np.arange(1200)[:, None] // 60 == np.arange(1200) // 60
    assert ((vectors @ vectors.T >= threshold) == same).mean() > 0.99


def test_min_similarity_is_capped_when_most_cases_are_alike() -> None:
    axes = np.eye(10, dtype=np.float32)
    pair = np.stack([axes[1], 0.6 * axes[1] + 0.8 * axes[2]])

    alike = np.concatenate([np.repeat(axes[:1], 40, axis=0), pair])

    assert min_similarity(alike, np.arange(42)) < 0.6


def test_follow_up_cases_of_a_patient_do_not_raise_min_similarity() -> None:
    rng = np.random.default_rng(23)
    kinds = np.repeat(rng.normal(0, 1, (10, 50)), 10, axis=0) + rng.normal(0, 1, (100, 50))
    vectors = (kinds / np.linalg.norm(kinds, axis=1, keepdims=True)).astype(np.float32)

    once = min_similarity(vectors, np.arange(100))
    followed_up = min_similarity(np.repeat(vectors, 2, axis=0), np.repeat(np.arange(100), 2))

    assert followed_up == pytest.approx(once)
    assert once < 0.45


def test_every_case_is_similar_with_too_few_patients() -> None:
    axes = np.eye(60, dtype=np.float32)

    assert min_similarity(axes[:19], np.arange(19)) == -1
    assert min_similarity(axes[:20], np.arange(20)) == 0
    assert min_similarity(axes, np.arange(60) // 4) == -1


def one_sided(count: int, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    """Images whose upper half is a little brighter than the lower one, no more than single images vary."""
    images = tokens(count, seed)
    images[:, :, :8] += 0.5
    return images


def upside_down(images: np.ndarray) -> list[tuple[np.ndarray, Origin]]:  # type: ignore[type-arg]
    """The deep layers of the images with their places exchanged, but for what all have in common."""
    turned = POSITIONS + (images - POSITIONS)[:, :, ::-1]
    return [(image[1:].astype(np.float16), Origin(str(number))) for number, image in enumerate(turned)]


def test_image_that_is_usual_but_for_being_upside_down_is_out_of_distribution(tmp_path: Path) -> None:
    images, origins = one_sided(300, 41), [Origin(str(number)) for number in range(300)]
    new, turned = one_sided(60, 42), POSITIONS + (one_sided(60, 43) - POSITIONS)[:, :, ::-1]

    plain = FeatureStats.fit([images], origins=origins)
    FeatureStats.fit([images], origins=origins, turned=upside_down(images)).save(tmp_path / "stats.npz")
    known = FeatureStats.load(tmp_path / "stats.npz")

    assert (plain.score(turned) > plain.threshold).mean() < 0.6
    assert (known.score(turned) > known.threshold).mean() > 0.95
    assert (known.score(new) > known.threshold).mean() <= (plain.score(new) > plain.threshold).mean() + 0.02


def test_images_that_look_alike_either_way_are_not_refused_for_it() -> None:
    images, origins = tokens(150, 44), [Origin(str(number)) for number in range(150)]

    known = FeatureStats.fit([images], origins=origins, turned=upside_down(images))

    assert not known.detector.upside_down.size


def test_equal_images_are_told_from_nothing_upside_down() -> None:
    images, origins = np.ones((12, 3, 16, 8), np.float32), [Origin(str(number)) for number in range(12)]

    known = FeatureStats.fit([images], origins=origins, turned=upside_down(images))
    same = FeatureStats.fit(
        [images], origins=origins, turned=[(images[0, 1:].astype(np.float16), one) for one in origins]
    )

    assert (known.score(images) <= known.threshold).all()
    assert (same.score(images) <= same.threshold).all()
    assert not same.detector.upside_down.size
