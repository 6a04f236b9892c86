"""Wheels of all pinned packages, as the package index lists them: nothing is compiled at an installation.

`make test-wheels` asks for every Python and architecture; a run of the slow tests for the one with the fewest wheels.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
FEWEST = [("3.14", "aarch64")]
ASKED = list(itertools.product(PYTHONS, MACHINES)) if os.environ.get("WHEELS") == "all" else FEWEST
#: Policies of glibc from which a wheel may be: the oldest names are aliases.
POLICIES = ("manylinux_2_28", "manylinux_2_27", "manylinux2014", "manylinux_2_17", "manylinux_2_5", "manylinux1")


@pytest.mark.slow
@pytest.mark.parametrize(("python", "machine"), ASKED)
def test_every_pinned_package_has_a_wheel(python: str, machine: str, tmp_path: Path) -> None:
    """As `pip install` resolves it: a dry run reads no wheel whose index has its metadata."""
    pins = (REPOSITORY / "constraints.txt").read_text().split()
    if python == "3.14":  # as pyproject.toml
        pins = [pin for pin in pins if not pin.startswith("pyjpegls==")]
    platforms = [f"--platform={policy}_{machine}" for policy in POLICIES]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--only-binary=:all:"]

    asked = subprocess.run(
        [*command, f"--python-version={python}", *platforms, f"--target={tmp_path}", *pins],
        capture_output=True,
        text=True,
        check=False,
    )

    assert asked.returncode == 0, asked.stderr
