"""Programs that `.ci/run` installs in an environment of their own."""

from __future__ import annotations

import os
import shutil

from tests.conftest import missing


def tool(name: str) -> str:
    """Return the path of a program; skips the test without it, and fails it in CI."""
    path = os.pathsep.join((os.environ.get("TESTS_TOOLS", ""), os.environ["PATH"]))
    found = shutil.which(name, path=path)
    if found is None:
        missing(f"{name} (see .ci/tools.txt)")
    return found or ""
