"""Which request owns which row of the cache."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.model.engine.model_runner import Arithmetic
    from worker.model.engine.sequence import Turn


class Rows:
    """Row n belongs to the nth turn: first those that decode, then at most one whose prompt is still being read.

    A decode step can so run over rows 0..n-1 without looking anything up, and a row without an owner is always clean.
    """

    def __init__(self, runner: Arithmetic) -> None:
        self._runner = runner
        self._turns: list[Turn] = []

    def __len__(self) -> int:
        return len(self._turns)

    def __iter__(self) -> Iterator[Turn]:
        return iter(list(self._turns))

    @property
    def decoding(self) -> list[Turn]:
        """Those that get a token per step, by row."""
        return [turn for turn in self._turns if turn.tokens]

    @property
    def reading(self) -> Turn | None:
        """The one whose prompt is being read: in the last row."""
        return self._turns[-1] if self._turns and not self._turns[-1].tokens else None

    def add(self, turn: Turn) -> None:
        """Give *turn* the first free row, to read its prompt into."""
        self._turns.append(turn)

    def vacate(self, turn: Turn) -> None:
        """Free a row: the last decoding turn moves into the hole, a prompt being read into that one's place."""
        row = self._turns.index(turn)
        chain = pairwise((row, max(row, len(self.decoding) - 1), len(self) - 1))
        moves = [(hole, source) for hole, source in chain if hole != source]
        # The device first: where it fails, every turn is still known and can be told.
        self._runner.wipe(row)
        for hole, source in moves:
            self._runner.move(source, hole, self._turns[source].length)
        for hole, source in moves:
            self._turns[hole] = self._turns[source]
        self._turns.pop()

    def clear(self) -> None:
        """Forget all turns; nothing will run any more."""
        self._turns.clear()
