"""Ctrl-C and its kin, counted instead of raised: a stop in order must not be torn by an exception from anywhere."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """How often the operator has asked for an end."""

    def __init__(self) -> None:
        self.count = 0

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        """Count one signal."""
        self.count += 1


@contextmanager
def counted_interrupts() -> Iterator[Interrupts]:
    """Count the signals that ask for an end, within the block."""
    interrupts = Interrupts()
    ours = [number for number in SIGNALS if not is_nohup(number)]
    before = {number: signal.signal(number, interrupts.handle) for number in ours}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_nohup(number: signal.Signals) -> bool:
    """Whether *number* is SIGHUP and nohup(1) told us to survive it."""
    return number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
