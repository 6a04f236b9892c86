"""Outages of the broker are logged when they begin and end, and counted in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from db.jobs.outages import Outage

if TYPE_CHECKING:
    import pytest


def test_outage_is_logged_when_it_begins_and_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("db.jobs.outages.time.monotonic", lambda: clock[0])
    outage = Outage()
    with capture_logs() as lines:
        outage.succeeded()
        for _ in range(50):
            outage.failed(ConnectionError("redis://:secret@host"))
        clock[0] += 7
        assert outage.info == {"error": "ConnectionError", "failures": 50, "seconds": 7}
        outage.succeeded()
        outage.succeeded()

    assert [(line["event"], line.get("failures")) for line in lines] == [
        ("broker.unreachable", None),
        ("broker.reachable", 50),
    ]
    assert "secret" not in str(lines)
    assert outage.info is None


def test_pauses_between_attempts_grow_to_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, outage = [100.0], Outage()
    monkeypatch.setattr("db.jobs.outages.time.monotonic", lambda: clock[0])
    assert not outage.resting

    pauses = []
    for _ in range(20):
        outage.failed(ConnectionError())
        started = clock[0]
        while outage.resting:
            clock[0] += 1
        pauses.append(clock[0] - started)

    assert pauses[:3] == [2, 4, 6]
    assert pauses[-1] == 30
