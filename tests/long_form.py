"""Sizes of slow tests: short in CI, long with TESTS_LONG=1 (`make test-long`)."""

from __future__ import annotations

import os

IS_LONG = os.environ.get("TESTS_LONG") == "1"


def size(short: int, long: int) -> int:
    """Return the size of a test in its form: the short one proves the same, on less."""
    return long if IS_LONG else short
