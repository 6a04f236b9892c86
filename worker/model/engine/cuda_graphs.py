"""Decode steps captured as CUDA graphs: one launch instead of about a thousand, which delay a small batch.

Off unless `PRELIM_CUDA_GRAPHS` is set: capture and replay follow CUDA's documentation and have not yet run on a GPU.
A graph has fixed shapes and addresses, so batches are padded to a few sizes; the padding is tested on a CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from worker.model.engine.model_runner import next_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.model.engine.model_runner import NextToken
    from worker.model.engine.transformers_runner import BatchedRunner

#: Smallest width of the cache that a step reads, in columns; further widths are doubled. Unused columns cost little
#: beside the weights: 512 of them are 0.1 GB in the 40 B model, of 69 GB per step.
MIN_WIDTH = 512
#: Runs before a capture, so that libraries allocate their workspaces outside of it.
WARM_UP_RUNS = 2


class PaddedDecoder:
    """Runs the decode steps of *runner* in batches of a few sizes over caches of a few widths."""

    def __init__(self, runner: BatchedRunner) -> None:
        self._runner = runner

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> list[NextToken]:
        """Decode one step; see ModelRunner.decode."""
        count = len(tokens)
        padding = _padded_size(count, 1, self._runner.max_sequences) - count
        # Padding rows write to their last column, which no sequence reaches: a sequence's last token is never stored.
        # Their results are dropped.
        inputs = torch.tensor([[*tokens, *[0] * padding], [*lengths, *[self._runner.max_tokens - 1] * padding]])
        chosen = self.run(inputs, _padded_size(max(lengths) + 1, MIN_WIDTH, self._runner.max_tokens))
        return next_tokens(chosen[:count].tolist())

    def run(self, inputs: torch.Tensor, width: int) -> torch.Tensor:
        """Run the step on padded *inputs*."""
        return self._runner.decode_step(inputs.to(self._runner.device), width)


class CudaGraphDecoder(PaddedDecoder):
    """A PaddedDecoder that replays graphs, one for each batch size and width used so far."""

    def __init__(self, runner: BatchedRunner) -> None:
        super().__init__(runner)
        # One graph runs at a time, and its tokens are read before the next: all may share the same memory.
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor, torch.cuda.CUDAGraph]] = {}

    def run(self, inputs: torch.Tensor, width: int) -> torch.Tensor:
        """Replay the graph of this size and width; capture it on first use."""
        key = inputs.shape[1], width
        if key not in self._graphs:
            # Warm-up and first replay compute this same step: they write the same values to the same positions.
            self._graphs[key] = self._capture(inputs.to(self._runner.device), width)
        buffer, chosen, graph = self._graphs[key]
        buffer.copy_(inputs)
        graph.replay()
        return chosen

    def _capture(self, buffer: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.cuda.CUDAGraph]:
        current, side = torch.cuda.current_stream(self._runner.device), torch.Stream(self._runner.device)
        side.wait_stream(current)
        with side:
            for _ in range(WARM_UP_RUNS):
                self._runner.decode_step(buffer, width)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may encode images on this device concurrently: only this thread's calls belong to the capture.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            chosen = self._runner.decode_step(buffer, width)
        return buffer, chosen, graph


def _padded_size(needed: int, smallest: int, largest: int) -> int:
    size = smallest
    while size < needed:
        size *= 2
    return min(size, largest)
