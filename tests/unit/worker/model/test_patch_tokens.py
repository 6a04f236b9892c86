from __future__ import annotations

from worker.model import patch_tokens
from worker.retrieval import out_of_distribution


def test_towers_of_any_depth_are_read_at_three_layers() -> None:
    assert patch_tokens.layers_of(4) == (1, 3, 4)
    assert patch_tokens.layers_of(45) == (11, 33, 45)


def test_the_grid_is_the_one_that_retrieval_reads() -> None:
    assert patch_tokens.MAX_GRID == out_of_distribution.GRID
