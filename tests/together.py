"""Calls of one function by several threads at the same time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
THREADS = 4


def called(function: Callable[[], T]) -> list[T]:
    """Call *function* in several threads that begin together; return their results."""
    start = threading.Barrier(THREADS)

    def call(_number: int) -> T:
        start.wait()
        return function()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(call, range(THREADS)))
