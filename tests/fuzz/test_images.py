"""The fuzzer's short form."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.fuzz.images import fuzz, run, sources

SECONDS = 8


def test_the_good_objects_become_images() -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert all(run(Path(folder) / "good.dcm", good, f"source {number}") for number, good in enumerate(sources()))


def test_spoiled_objects_become_images_or_refusals() -> None:
    cases, shown = fuzz(seed=20260101, seconds=SECONDS)

    assert cases > 50
    assert 0 < shown < cases
