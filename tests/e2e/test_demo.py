"""`prelim demo --exit` is what a newcomer types first."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import PRELIM, environment_in

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(700)
def test_the_demo_reports_every_study_and_ends_with_status_0(tmp_path: Path) -> None:
    demo = subprocess.run(
        [PRELIM, "demo", "--exit", "--seed", "7"],
        env=environment_in(tmp_path),
        check=False,
        capture_output=True,
        text=True,
        timeout=680,
    )

    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "Flower" in demo.stdout
    for column in ("truth", "report", "findings"):
        assert column in demo.stdout
