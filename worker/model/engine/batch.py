"""The running sequences and the rows of the KV cache that hold them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.model.engine.model_runner import ModelRunner
    from worker.model.engine.sequence import Sequence


class Batch:
    """Running sequences by row: first those that decode, then at most one that is being prefilled.

    A decode step therefore runs over rows 0..n-1 without a lookup table. Rows without a sequence are clear.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._sequences: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(list(self._sequences))

    @property
    def decoding(self) -> list[Sequence]:
        """Sequences that get one token per step, by row."""
        return [sequence for sequence in self._sequences if sequence.tokens]

    @property
    def prefilling(self) -> Sequence | None:
        """The sequence whose prompt is being prefilled, in the last row."""
        return self._sequences[-1] if self._sequences and not self._sequences[-1].tokens else None

    def add(self, sequence: Sequence) -> None:
        """Give *sequence* the first free row."""
        self._sequences.append(sequence)

    def free(self, sequence: Sequence) -> None:
        """Free the row of *sequence*: the last decoding sequence moves into it, a prefilling one into that row."""
        row = self._sequences.index(sequence)
        chain = pairwise((row, max(row, len(self.decoding) - 1), len(self) - 1))
        moves = [(target, source) for target, source in chain if target != source]
        # The device first: if it fails, all sequences are still listed and can be failed.
        self._runner.clear_row(row)
        for target, source in moves:
            self._runner.move_row(source, target, self._sequences[source].length)
        for target, source in moves:
            self._sequences[target] = self._sequences[source]
        self._sequences.pop()

    def forget(self) -> None:
        """Drop all sequences without touching the device; nothing runs afterwards."""
        self._sequences.clear()
