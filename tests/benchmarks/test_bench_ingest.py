"""The benchmark of the listener prints its figures, and counts the CPU time of child processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.association_rates import AssociationRates
from tests.benchmarks.bench_ingest import CELLS, figures, turns
from tests.benchmarks.figures import FIGURES
from tests.benchmarks.receivers import RECEIVERS, cpu_seconds
from tests.benchmarks.transfers import Transfer

#: Uses CPU in a child that has ended and was waited for, and in one that runs; more than is asserted, because the
#: kernel reports whole ticks of user and of system time.
PARENT = """
import os, sys, time
def work():
    while time.process_time() < 0.13: pass
if not os.fork(): work(); os._exit(0)
os.wait()
if not os.fork(): work(); print(flush=True); time.sleep(60); os._exit(0)
time.sleep(60)
"""


def test_figures_are_medians_of_ratios_within_a_round() -> None:
    seconds = {"prelim_2": (1, 1, 4), "storescp": (0.5, 0.5, 1)}
    measured = {("ct_1", who): [Transfer(10, 1, each, 1, 1, 0) for each in times] for who, times in seconds.items()}

    assert figures(measured, {}) == {"ct_1_vs_storescp": 0.5}


def test_run_of_every_cell_has_every_figure() -> None:
    cells = {(cell, receiver) for cell, receiver in turns(1, CELLS, list(RECEIVERS)) if cell in CELLS}
    measured = {cell: [Transfer(10, 1, 1, 1, 1, 0)] for cell in cells}

    assert figures(measured, {"prelim_2": [AssociationRates(1, 1)]}).keys() == FIGURES["ingest"].keys()


def test_cpu_time_includes_that_of_running_and_ended_children() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        parent.stdout.readline()
        used = cpu_seconds(parent.pid)
        for child in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split():
            subprocess.run(["kill", child], check=True)
        parent.kill()
    assert used >= 0.2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_bench_measures_one_process_two_processes_and_storescp(tmp_path: Path) -> None:
    receivers = ["prelim_1", "prelim_2", "storescp_fork"]
    short = ["--rounds", "1", "--cells", "small_4", "--small", "40", "--folder", str(tmp_path)]
    bench = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_ingest", *short, "--receivers", *receivers],
        stdout=subprocess.PIPE,
        check=True,
    )

    expected = {"small_4_vs_storescp_fork", "small_4_vs_prelim_1", "cpu_ms_small_4"}
    assert json.loads(bench.stdout.splitlines()[-1]).keys() == expected | {"c_echo_per_s", "associations_per_s"}
