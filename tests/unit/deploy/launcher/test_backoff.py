from __future__ import annotations

import time

import pytest

from deploy.launcher.backoff import LONGEST_PAUSE_SECONDS, STEADY_SECONDS, Restarts


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


def test_the_first_restart_is_at_once_and_the_pauses_then_double_up_to_a_limit(clock: Clock) -> None:
    restarts = Restarts()
    pauses = []
    for _ in range(8):
        restarts.began()
        clock.now += 0.1
        pauses.append(restarts.plan())

    assert pauses == [0, 1, 2, 4, 8, 16, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]
    assert restarts.due == clock.now + LONGEST_PAUSE_SECONDS


def test_a_steady_life_forgives_earlier_ends(clock: Clock) -> None:
    restarts = Restarts()
    restarts.plan()
    restarts.plan()
    restarts.began()
    clock.now += STEADY_SECONDS + 1

    assert restarts.plan() == 0
