"""Count Ctrl-C, SIGTERM and SIGHUP instead of raising: an exception could interrupt an orderly stop anywhere."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Number of stop signals received."""

    def __init__(self) -> None:
        self.count = 0

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        """Count one signal."""
        self.count += 1


@contextmanager
def counted_interrupts() -> Iterator[Interrupts]:
    """Count stop signals within the block."""
    interrupts = Interrupts()
    handled = [number for number in SIGNALS if not is_nohup(number)]
    before = {number: signal.signal(number, interrupts.handle) for number in handled}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_nohup(number: signal.Signals) -> bool:
    """Return whether *number* is SIGHUP and ignored, as nohup(1) sets it."""
    return number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
