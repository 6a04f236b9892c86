from __future__ import annotations

from worker.model import patch_tokens
from worker.retrieval import features


def test_three_depths_of_any_tower_are_read() -> None:
    assert patch_tokens.layers_of(4) == (1, 3, 4)
    assert patch_tokens.layers_of(45) == (11, 33, 45)


def test_the_model_hands_over_the_grid_that_retrieval_reads() -> None:
    assert patch_tokens.GRID == features.GRID
