"""Short run of the fuzzer."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.fuzz.images import fuzz, run, sources

SECONDS = 8


def test_valid_objects_become_images() -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert all(run(Path(folder) / "good.dcm", good, f"source {number}") for number, good in enumerate(sources()))


def test_damaged_objects_become_images_or_reasons() -> None:
    cases, shown = fuzz(seed=20260101, seconds=SECONDS)

    assert cases > 50
    assert 0 < shown < cases
