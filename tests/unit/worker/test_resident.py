"""What a worker holds tells when it can do no more."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from db.settings import Settings
from worker.resident import Resident

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("alive", "seconds"), [(True, 3.0), (False, math.inf)])
def test_a_dead_engine_counts_as_stalled_for_ever_so_that_the_watch_ends_its_process(
    tmp_path: Path, alive: bool, seconds: float
) -> None:
    model = SimpleNamespace(engine=SimpleNamespace(alive=alive, stalled_seconds=3.0))

    assert Resident(model, Settings(data_dir=tmp_path)).stalled_seconds == seconds
