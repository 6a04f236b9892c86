"""Decode steps recorded as CUDA graphs: one launch instead of a thousand, which a small batch would wait for.

A graph has fixed shapes and addresses, so batches are filled up to the next of a few sizes. Filling up is tested on a
CPU; the recording itself follows CUDA's documentation and has not run yet, no GPU was at hand. Therefore SlotRunner
compares one with plain steps before it uses any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    #: (tokens and lengths [2, batch], columns to read) -> the tokens that follow [batch]
    Step = Callable[[torch.Tensor, int], torch.Tensor]

#: Narrowest cache a step reads, in columns; each further width doubles. Columns read in vain cost little beside the
#: weights: 512 of them 0.1 GB in the 40 B model, of 69 GB a step.
NARROWEST = 512
#: Runs before a recording, so that libraries allocate their workspaces outside it.
REHEARSALS = 2


class FixedShapes:
    """Decodes in batches of a few sizes over caches of a few widths."""

    def __init__(self, step: Step, device: torch.device, *, rows: int, tokens: int) -> None:
        self._step = step
        self._device = device
        self._rows = rows
        self._tokens = tokens

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """As SlotRunner.decode."""
        count = len(tokens)
        filling = _fill_up(count, 1, self._rows) - count
        # What fills the batch up writes to its row's last column, which no request reaches: its last token is never
        # read back. What it says is dropped.
        inputs = torch.tensor([[*tokens, *[0] * filling], [*lengths, *[self._tokens - 1] * filling]])
        followers = self._run(inputs, _fill_up(max(lengths) + 1, NARROWEST, self._tokens))
        return [int(token) for token in followers[:count].tolist()]

    def _run(self, inputs: torch.Tensor, width: int) -> torch.Tensor:
        return self._step(inputs.to(self._device), width)


class Graphs(FixedShapes):
    """The same through recordings, one for each batch size and width met so far."""

    def __init__(self, step: Step, device: torch.device, *, rows: int, tokens: int) -> None:
        super().__init__(step, device, rows=rows, tokens=tokens)
        # One at a time runs, and its tokens are read before the next: all may work in the same memory.
        self._pool = torch.cuda.graph_pool_handle()
        self._recordings: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor, torch.cuda.CUDAGraph]] = {}

    def _run(self, inputs: torch.Tensor, width: int) -> torch.Tensor:
        key = inputs.shape[1], width
        if key not in self._recordings:
            # Rehearsals and first replay all compute this very step: they write the same tokens to the same places.
            self._recordings[key] = self._record(inputs.to(self._device), width)
        buffer, followers, graph = self._recordings[key]
        buffer.copy_(inputs)
        graph.replay()
        return followers

    def _record(self, buffer: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.cuda.CUDAGraph]:
        current, aside = torch.cuda.current_stream(self._device), torch.Stream(self._device)
        aside.wait_stream(current)
        with aside:
            for _ in range(REHEARSALS):
                self._step(buffer, width)
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may embed images on this device meanwhile: only this one's calls belong to the recording.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            followers = self._step(buffer, width)
        return buffer, followers, graph


def _fill_up(needed: int, smallest: int, largest: int) -> int:
    size = smallest
    while size < needed:
        size *= 2
    return min(size, largest)
