"""Objects of a process that its threads share."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class MadeOnce(Generic[P, T]):
    """Decorator: one object for equal arguments, also for threads that call it together; the last eight are kept.

    `functools.lru_cache` alone makes one for each of these threads, keeps one, and loses the others as they are: with
    open connections, or with what a thread has noted in them.
    """

    def __init__(self, make: Callable[P, T]) -> None:
        self._cached = functools.lru_cache(maxsize=8)(make)
        self._make = cast("Callable[P, T]", self._cached)
        self._lock = threading.Lock()
        functools.update_wrapper(self, make)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the object."""
        with self._lock:
            return self._make(*args, **kwargs)

    def cache_clear(self) -> None:
        """Forget the objects."""
        self._cached.cache_clear()
