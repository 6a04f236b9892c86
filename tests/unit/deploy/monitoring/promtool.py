"""Run promtool on rules."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.conftest import REPOSITORY, missing

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = REPOSITORY / "deploy" / "monitoring"
#: Suffixes of the series of a counter and a histogram.
SUFFIX = re.compile(r"_(total|bucket|count|sum)$")


def promtool(*arguments: str, folder: Path) -> str:
    """Return the output of a successful run."""
    program = shutil.which("promtool")
    if program is None:
        missing("promtool (Debian package `prometheus`)")
        return ""
    ran = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def metrics_of(expression: str) -> set[str]:
    """Return the metrics of Prelim that an expression reads, without the suffixes of their series."""
    return {SUFFIX.sub("", name) for name in re.findall(r"\bprelim_\w+", expression)}
