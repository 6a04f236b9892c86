"""Queries for readiness checks: they end within a second, even if the database hangs."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: Seconds for the answer of the database: with those of the network, less than the second a probe waits at least.
ANSWER_SECONDS = 0.8


class SharedQuery(Generic[T]):
    """Query that runs once at a time: callers that arrive meanwhile share its result.

    It runs in a thread of its own, so that a caller can stop waiting; any number of checks of a database that hangs
    occupies one thread and one connection. A result is given again for *valid_seconds*.
    """

    def __init__(self, query: Callable[[], T], valid_seconds: float = 0) -> None:
        self._query = query
        self._valid_seconds = valid_seconds
        self._valid_until = 0.0
        self._lock = threading.Lock()
        self._running: Future[T] | None = None

    def start(self) -> Future[T]:
        """Return the future result of the query in progress, or of a new one."""
        with self._lock:
            if self._running is None or (self._running.done() and time.monotonic() >= self._valid_until):
                self._running = Future()
                threading.Thread(target=self._run, args=(self._running,), name="readiness", daemon=True).start()
            return self._running

    def result(self) -> T:
        """Return the result; raises TimeoutError after ANSWER_SECONDS, or the error of the query."""
        return self.start().result(ANSWER_SECONDS)

    def _run(self, future: Future[T]) -> None:
        try:
            result = self._query()
            self._valid_until = time.monotonic() + self._valid_seconds
            future.set_result(result)
        except BaseException as error:  # noqa: BLE001 - the boundary of the thread: the caller gets the error
            future.set_exception(error)
