"""Restarts of the listener's processes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from dicom_listener.receive.prefork import pool
from dicom_listener.receive.prefork.children import ChildProcess

if TYPE_CHECKING:
    from collections.abc import Callable


class Channel:
    """End of a channel that sends nothing."""

    def close(self) -> None: ...


def child() -> ChildProcess:
    return ChildProcess(2**22 + 1, Channel())  # type: ignore[arg-type] # no process has this id


def fail() -> ChildProcess:
    raise OSError(11, "Resource temporarily unavailable")


@pytest.mark.parametrize("start", [fail, child], ids=["no process is free", "each process ends at once"])
def test_thousands_of_failed_starts_end_neither_the_listener_nor_its_attempts(
    start: Callable[[], ChildProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(pool.time, "monotonic", lambda: now)
    attempts = []

    def attempt() -> ChildProcess:
        attempts.append(now)
        return start()

    subject = pool.Pool(1, attempt)
    subject.note_ready(child())
    for _ in range(1100):
        now += pool.MAX_RESTART_SECONDS
        subject.supervise()
        for each in list(subject.children):
            subject.lose(each)
    assert len(attempts) == 1100
    subject._start = child
    now += pool.MAX_RESTART_SECONDS
    subject.supervise()
    assert len(subject.children) == 1
