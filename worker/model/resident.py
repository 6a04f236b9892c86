"""The model a worker process holds for as long as it lives.

Its life: load the checkpoint, warm up, measure the memory left, size the batch, serve, close.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import structlog
import torch

from db.errors import ConfigurationError
from worker.model import placement
from worker.model.digest import checkpoint_digest
from worker.model.engine import Engine
from worker.model.loading import load_checkpoint
from worker.model.request import Generation, Request
from worker.model.runner import SlotRunner, StockRunner, batches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from pathlib import Path

    import numpy.typing as npt

    from worker.model.arithmetic import Arithmetic
    from worker.model.loading import Checkpoint
    from worker.model.prompts import Prompt

__all__ = ["Generation", "Request", "ResidentModel"]

log = structlog.get_logger()

#: Longest request, prompt and answer together, unless the model or the caller wants it shorter: MedDr's positions.
CONTEXT_TOKENS = 4096
#: Pictures embedded at once.
EMBED_BATCH = 8


class ResidentModel:
    """A loaded checkpoint that embeds pictures and answers questions about them, from any thread."""

    def __init__(self, checkpoint: Checkpoint, digest: str, *, slots: int, context_tokens: int) -> None:
        self._checkpoint = checkpoint
        self._model = checkpoint.model
        self._make_prompt = checkpoint.make_prompt
        self.digest = digest
        self.name = checkpoint.name
        blank = np.zeros((64, 64, 3), np.uint8)
        prompt = self._make_prompt("", [blank])
        #: Prompt tokens that one picture takes.
        self.image_tokens = len(prompt) - len(self._make_prompt("", []))
        #: Tokens one request may have, prompt and answer together.
        self.context_tokens = min(context_tokens, _positions(self._model))
        self.engine = Engine(
            self._size_batch(self._warm_up(prompt), slots),
            stop_tokens=checkpoint.stop_tokens,
            detokenize=self._detokenize,
        ).start()

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        slots: int = 4,
        context_tokens: int = CONTEXT_TOKENS,
        quantization: str | None = None,
    ) -> ResidentModel:
        """Load *directory* and begin to serve up to *slots* requests at once.

        *device* is `auto`, `cpu`, `cuda` or `cuda:N`; *dtype* `auto` (as stored) or a torch name; *quantization*
        `int8` or `int4`. Raises ConfigurationError where the directory, the device or its memory will not do.
        """
        started = time.monotonic()
        checkpoint = load_checkpoint(directory, device=device, dtype=dtype, quantization=quantization)
        digest = checkpoint_digest(directory)
        resident = cls(checkpoint, digest, slots=slots, context_tokens=context_tokens)
        log.info("checkpoint_loaded", digest=digest[:12], seconds=round(time.monotonic() - started, 1))
        return resident

    def submit(self, request: Request) -> Future[Generation]:
        """Queue a request; see Engine.submit. The prompt is made here, on the caller's thread."""
        return self.engine.submit(request, self._make_prompt(request.question, request.pictures))

    @torch.inference_mode()
    def embed(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """A vector per picture: the mean of the vision tower's last tokens, of length 1; [pictures, hidden]."""
        vectors = [self._embed(pictures[start : start + EMBED_BATCH]) for start in range(0, len(pictures), EMBED_BATCH)]
        return np.concatenate(vectors)

    def close(self) -> None:
        """Stop serving; requests under way fail as transient."""
        self.engine.close()

    def _embed(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        tiles = [self._make_prompt.tiles(picture) for picture in pictures]
        pixels = torch.cat(tiles).to(self._model.device, self._model.dtype)
        seen = self._model.get_image_features(pixels).last_hidden_state.float().mean(dim=1)
        means = torch.stack([part.mean(dim=0) for part in seen.split([len(tile) for tile in tiles])])
        vectors: npt.NDArray[np.float32] = torch.nn.functional.normalize(means, dim=-1).cpu().numpy()
        return vectors

    def _warm_up(self, prompt: Prompt) -> StockRunner:
        """Run one prompt, so that kernels are chosen and workspaces taken before memory is measured."""
        runner = StockRunner(self._model, tokens=self.context_tokens)
        if prompt.unseen:
            runner.see([prompt], prompt.unseen)
        runner.prefill(0, prompt, 0, len(prompt))
        return runner

    def _size_batch(self, warm: StockRunner, slots: int) -> Arithmetic:
        """As many rows as asked for, or as fit beside the model."""
        if not batches(self._model, warm.cache):
            log.warning("requests_run_one_by_one", model_type=self._model.config.model_type)
            warm.wipe(0)
            return warm
        costs = placement.cache_bytes_per_token(warm.cache)
        warm.wipe(0)
        fit = placement.rows_that_fit(costs, self.context_tokens, placement.free_memory(costs))
        if fit < 1:
            raise ConfigurationError(
                f"no memory is left for one request of {self.context_tokens} tokens "
                f"({sum(costs.values()) * self.context_tokens / 2**30:.1f} GiB): allow fewer or use a larger device"
            )
        if fit < slots:
            log.warning("fewer_slots_than_asked", slots=fit, asked=slots)
        return SlotRunner(self._model, rows=min(slots, fit), tokens=self.context_tokens).warm_up()

    def _detokenize(self, tokens: list[int]) -> str:
        text: str = self._checkpoint.tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip()


def _positions(model: object) -> int:
    config = model.config.get_text_config()  # type: ignore[attr-defined]
    return int(config.max_position_embeddings)
