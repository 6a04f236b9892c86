"""The demo checkpoint of the repository: small, marked as a demo, and as accurate as its card says."""

from __future__ import annotations

from statistics import mean

import pytest

from deploy.demo.demo import CHECKPOINT
from worker.evaluation.checkpoint_evaluator import CheckpointEvaluator, Size
from worker.evaluation.inheritance import by_family, rejection
from worker.evaluation.phantom_figures import reading, retrieval
from worker.evaluation.region_controls import measure
from worker.model.checkpoint.manifest import check_files, read_manifest
from worker.phantoms.cases import CATALOGUE
from worker.phantoms.phantoms import TRAINING
from worker.training.demo_model import DemoModel


def test_the_demo_checkpoint_is_small_and_never_for_patients() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.glob("*.safetensors")) <= 8_000_000
    manifest = read_manifest(CHECKPOINT)
    check_files(CHECKPOINT, manifest)
    assert manifest.demo
    assert "never patients" in (CHECKPOINT / "README.md").read_text()


@pytest.mark.timeout(600)
def test_fresh_images_are_read_correctly() -> None:
    evaluator = CheckpointEvaluator(
        DemoModel.load(CHECKPOINT), Size(chests=100, others=12, references=40), seed=3_900_000
    )

    figures = reading(evaluator, TRAINING)

    assert figures["chest"]["strict_f1"] >= 0.95
    # A finding on both sides that is told of one side counts as wrong.
    assert figures["chest"]["laterality"] >= 0.97
    assert figures["chest"]["hallucinated"] <= 0.02
    assert min(figures[kind]["strict_f1"] for kind in CATALOGUE) >= 0.93


@pytest.mark.slow
def test_regions_beat_chance_the_prior_of_the_text_and_a_tower_with_random_weights() -> None:
    figures = measure(DemoModel.load(CHECKPOINT), references=480, chests=200, seed=3_900_000)

    assert figures["hit"] >= 0.9
    assert figures["hit_another"] <= 0.05
    assert figures["supported"]


@pytest.mark.slow
def test_similar_cases_improve_rare_findings() -> None:
    evaluator = CheckpointEvaluator(
        DemoModel.load(CHECKPOINT), Size(chests=80, rare=10, references=600), seed=3_900_000
    )

    figures = retrieval(evaluator)

    # 50 cases: two findings more or less are 0.02.
    assert figures["rare_f1_near"]["all"] >= figures["rare_f1_alone"]["all"] + 0.15
    assert figures["common_f1_near"] >= figures["common_f1_alone"] - 0.02


@pytest.mark.slow
def test_findings_of_wrong_cases_are_seldom_copied() -> None:
    evaluator = CheckpointEvaluator(
        DemoModel.load(CHECKPOINT), Size(chests=80, others=12, rare=4, references=240), seed=3_900_000
    )

    inherited = by_family(evaluator)

    # As a worker quotes them.
    for group in ("chest", "chest, rare", "chest, distractor"):
        assert inherited[group]["random"] <= 0.03, group
        assert inherited[group]["rare"] <= 0.1, group

    # The model alone, with their own similarities: one in five when it was shipped.
    assert inherited["chest, rare"]["rare, all quoted"] <= 0.35
    assert inherited["chest"]["random, disguised"] <= 0.03
    assert inherited["chest"]["rare, disguised"] <= 0.1
    for family in CATALOGUE:
        # One of twelve is 0.083.
        assert inherited[family]["random, disguised"] <= 0.09, family


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_negatives_are_rejected() -> None:
    # 125 cases of each other family: the slices of forty heads are too few to separate CT from MR.
    evaluator = CheckpointEvaluator(DemoModel.load(CHECKPOINT), Size(negatives=8, references=1500), seed=3_900_000)

    figures = rejection(evaluator)

    # One of eight is 0.125.
    assert max(figures["ct"]["mr"]["in_distribution"], figures["mr"]["ct"]["in_distribution"]) <= 0.13
    for claimed, images in figures.items():
        taken = {name: row["inherited_after_rejection"] for name, row in images.items()}
        assert mean(taken.values()) <= 0.02, claimed
        # Chests in shuffled blocks are often in distribution, more often with fewer reference chests.
        shuffled = taken.pop("shuffled")
        assert shuffled <= 0.38, claimed
        assert max(taken.values()) <= 0.13, claimed
