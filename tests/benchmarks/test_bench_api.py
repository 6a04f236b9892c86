"""The benchmark of the API runs on today's schema, and prints its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.benchmarks.figures import FIGURES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_bench_prints_every_figure_in_its_last_line() -> None:
    # Too short to compare the figures with their aims.
    short = {"SIZE": "2500", "RUNS": "3", "SECONDS": "2", "CLIENTS": "4", "STREAMS": "20", "STREAM_SECONDS": "4"}
    bench = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_api"],
        env=os.environ | short,
        stdout=subprocess.PIPE,
        check=True,
    )

    assert json.loads(bench.stdout.splitlines()[-1]).keys() == FIGURES["api"].keys()
