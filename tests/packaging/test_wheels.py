"""Wheels of all pinned packages, as the package index lists them: nothing is compiled at an installation.

`make test-wheels` asks for every Python and architecture; a run of the slow tests for the one with the fewest wheels.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.hashes import MACHINES, OLD_POLICIES, PYTHONS

REPOSITORY = Path(__file__).parents[2]
FEWEST = [("3.14", "aarch64")]
ASKED = list(itertools.product(PYTHONS, MACHINES)) if os.environ.get("WHEELS") == "all" else FEWEST


@pytest.mark.slow
@pytest.mark.parametrize(("python", "machine"), ASKED)
def test_every_pinned_package_has_a_wheel(python: str, machine: str, tmp_path: Path) -> None:
    """As `pip install` resolves it: a dry run reads no wheel whose index has its metadata."""
    pins = (REPOSITORY / "constraints.txt").read_text().split()
    if python == "3.14":  # as pyproject.toml
        pins = [pin for pin in pins if not pin.startswith("pyjpegls==")]
    platforms = [f"--platform={policy}_{machine}" for policy in OLD_POLICIES]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--only-binary=:all:"]

    asked = subprocess.run(
        [*command, f"--python-version={python}", *platforms, f"--target={tmp_path}", *pins],
        capture_output=True,
        text=True,
        check=False,
    )

    assert asked.returncode == 0, asked.stderr


#: It downloads 100 MB.
if os.environ.get("WHEELS") == "all":

    @pytest.mark.slow
    def test_core_is_installed_with_hashes_and_a_changed_hash_is_refused(tmp_path: Path) -> None:
        """As docs/dependencies.md has it, in a new environment."""
        requirements = (REPOSITORY / "requirements" / "core.txt").read_text()
        changed = tmp_path / "changed.txt"
        changed.write_text(re.sub("sha256:[0-9a-f]", "sha256:", requirements).replace("sha256:", "sha256:0"))
        subprocess.run([sys.executable, "-m", "venv", tmp_path / "new"], check=True)
        pip = (tmp_path / "new" / "bin" / "pip", "install", "--quiet", "--no-deps")

        refused = subprocess.run([*pip, "--require-hashes", "-r", changed], capture_output=True, text=True, check=False)
        subprocess.run([*pip, "--require-hashes", "-r", REPOSITORY / "requirements" / "core.txt"], check=True)
        subprocess.run([*pip, "--no-build-isolation", REPOSITORY], check=True)

        assert "THESE PACKAGES DO NOT MATCH THE HASHES" in refused.stderr
        version = subprocess.run(
            [tmp_path / "new" / "bin" / "prelim", "--version"], capture_output=True, text=True, check=True
        )
        assert version.stdout.startswith("prelim ")
