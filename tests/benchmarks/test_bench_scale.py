"""The benchmark of large tables runs on today's schema, and prints its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.benchmarks.figures import FIGURES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_bench_prints_every_figure_in_its_last_line() -> None:
    # Too short to compare the figures with their aims.
    short = {"SIZE": "12000", "RUNS": "4", "ROUNDS": "1", "READS": "10", "FILES": "100", "STAT_BACKLOG": "15000"}
    bench = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_scale"],
        env=os.environ | short,
        stdout=subprocess.PIPE,
        check=True,
    )

    assert json.loads(bench.stdout.splitlines()[-1]).keys() == FIGURES["scale"].keys()
