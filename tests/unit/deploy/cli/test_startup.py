"""The limit of open files is raised at the start; a low one is named."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: In a process of its own: a lowered hard limit stays.
PROGRAM = """
import resource
from deploy.cli import startup
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
startup.process_settings()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(("soft", "hard", "raised", "warns"), [(256, 1024, "1024", True), (1024, 5000, "5000", False)])
def test_soft_limit_is_raised_to_the_hard_one(*, soft: int, hard: int, raised: str, warns: bool) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(soft=soft, hard=hard)], capture_output=True, text=True, check=True
    )

    assert ran.stdout.strip() == raised
    assert ("open_files.low" in ran.stderr and "limit=1024" in ran.stderr) is warns
