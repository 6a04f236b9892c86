"""The checkpoint in the repository: small, marked as a demo, and able to read."""

from __future__ import annotations

from statistics import mean

import pytest

from deploy.demo.demo import CHECKPOINT
from worker.evaluation.checkpoint_evaluator import Ruler, Size
from worker.evaluation.inheritance import by_kind, refusing
from worker.evaluation.phantom_figures import reading, retrieval
from worker.model.checkpoint.digest import is_demo
from worker.phantoms.cases import CATALOGUE
from worker.phantoms.phantoms import TRAINING
from worker.training.training import Trainee


def test_it_is_small_and_never_for_patients() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.glob("*.safetensors")) <= 8_000_000
    assert is_demo(CHECKPOINT)
    assert "never patients" in (CHECKPOINT / "README.md").read_text()


def test_it_reads_images_it_has_never_seen() -> None:
    ruler = Ruler(Trainee.load(CHECKPOINT), Size(chests=100, others=12, references=40), seed=3_900_000)

    figures = reading(ruler, TRAINING)

    assert figures["chest"]["strict_f1"] >= 0.95
    assert figures["chest"]["laterality"] >= 0.98
    assert figures["chest"]["hallucinated"] <= 0.02
    assert min(figures[kind]["strict_f1"] for kind in CATALOGUE) >= 0.93


def test_similar_cases_tell_it_the_names_of_rare_findings() -> None:
    ruler = Ruler(Trainee.load(CHECKPOINT), Size(chests=80, rare=10, references=600), seed=3_900_000)

    figures = retrieval(ruler)

    assert figures["rare_f1_near"]["all"] >= figures["rare_f1_alone"]["all"] + 0.2
    assert figures["common_f1_near"] >= figures["common_f1_alone"] - 0.02


@pytest.mark.slow
def test_it_believes_the_image_more_than_wrong_reports() -> None:
    ruler = Ruler(Trainee.load(CHECKPOINT), Size(chests=80, others=12, rare=4, references=240), seed=3_900_000)

    taken = by_kind(ruler)

    # As a worker quotes them.
    for shown in ("chest", "chest, rare", "chest, without a name"):
        assert taken[shown]["random"] <= 0.03, shown
        assert taken[shown]["rare"] <= 0.1, shown

    # The model alone, told how unlike they are: one in five when it was shipped.
    assert taken["chest, rare"]["rare, all quoted"] <= 0.35
    assert taken["chest"]["random, disguised"] <= 0.03
    assert taken["chest"]["rare, disguised"] <= 0.1
    for kind in CATALOGUE:
        # One of twelve is 0.083.
        assert taken[kind]["random, disguised"] <= 0.09, kind


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_it_says_nothing_of_images_that_are_none() -> None:
    # 125 of every other kind than chests: forty heads in 130 slices do not tell CT from MR.
    ruler = Ruler(Trainee.load(CHECKPOINT), Size(junk=8, references=1500), seed=3_900_000)

    figures = refusing(ruler)

    # One of eight is 0.125.
    assert max(figures["ct"]["mr"]["passed_the_gate"], figures["mr"]["ct"]["passed_the_gate"]) <= 0.13
    for said_to_be, images in figures.items():
        taken = {name: row["inherited_with_gate"] for name, row in images.items()}
        assert mean(taken.values()) <= 0.02, said_to_be
        # A chest cut into blocks and mixed is still one to the gate, the more often the fewer chests it knows.
        mixed = taken.pop("shuffled")
        assert mixed <= 0.38, said_to_be
        assert max(taken.values()) <= 0.13, said_to_be
