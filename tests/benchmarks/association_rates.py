"""Measure C-ECHOs and associations a second of a receiver."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from tests.benchmarks.receivers import receiving
from tests.fuzz import wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MEASURE_SECONDS = 0.5


class AssociationRates(NamedTuple):
    """Rates a second, each one after the other: C-ECHOs in one association, associations with their release."""

    echoes: float
    associations: float


def measure(receiver: str, parent: Path) -> AssociationRates:
    """Measure a receiver that stores below *parent*."""
    with receiving(receiver, parent) as (port, _):
        return AssociationRates(_echoes(port), _rate(lambda: _associate(port)))


def _echoes(port: int) -> float:
    request = wire.pdu(wire.P_DATA_TF, wire.pdv(1, wire.COMMAND | wire.LAST, wire.c_echo_rq()))
    with wire.Client(port) as client:
        client.associate()
        rate = _rate(lambda: client.ask(request))
        client.release()
    return rate


def _associate(port: int) -> None:
    with wire.Client(port) as client:
        client.associate().release()


def _rate(action: Callable[[], object]) -> float:
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < MEASURE_SECONDS:
        action()
        count += 1
    return count / (time.perf_counter() - started)
