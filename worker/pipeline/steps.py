"""Durations of the steps of a run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.model.engine.request import Timings


@dataclass(slots=True)
class Steps:
    """Seconds of each step, stored with the report; the end of a step is progress."""

    on_progress: Callable[[], None]
    seconds: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)

    def ended(self, step: str) -> None:
        """Add the seconds since the end of the previous step."""
        now = time.monotonic()
        # A step may be repeated, once for each part of a study.
        self.seconds[step] = round(self.seconds.get(step, 0.0) + now - self._since, 4)
        self._since = now
        self.on_progress()

    def parts_of_generation(self, timings: Timings) -> None:
        """Add the steps of a generation."""
        for name in ("queue", "vision", "prefill"):
            # The parts of a study are generated at the same time: the slowest counts.
            key, seconds = f"generation_{name}", round(getattr(timings, name), 4)
            self.seconds[key] = max(self.seconds.get(key, 0.0), seconds)
