from __future__ import annotations

import time

import pytest

from deploy.launcher.backoff import MAX_PAUSE_SECONDS, STEADY_SECONDS, Restarts


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_first_restart_is_immediate_and_later_pauses_double_up_to_a_limit(clock: Clock) -> None:
    restarts = Restarts()
    pauses = []
    for _ in range(8):
        restarts.record_start()
        clock.now += 0.1
        pauses.append(restarts.schedule())

    assert pauses == [0, 1, 2, 4, 8, 16, MAX_PAUSE_SECONDS, MAX_PAUSE_SECONDS]
    assert restarts.due == clock.now + MAX_PAUSE_SECONDS


def test_long_run_resets_the_pause(clock: Clock) -> None:
    restarts = Restarts()
    restarts.schedule()
    restarts.schedule()
    restarts.record_start()
    clock.now += STEADY_SECONDS + 1

    assert restarts.schedule() == 0
