"""The model a worker process holds for as long as it lives.

Its life: load the checkpoint, warm up, measure the memory left, size the batch, serve, close.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np
import structlog
import torch

from db.errors import ConfigurationError, PermanentFailure, Reason
from worker.model import placement
from worker.model.checkpoint.digest import checkpoint_digest, is_demo
from worker.model.engine.engine import Engine
from worker.model.engine.model_runner import NO_TOKEN
from worker.model.engine.request import Generation, Request
from worker.model.engine.runner import SlotRunner, StockRunner, batches
from worker.model.loading import INTERNVL, load_checkpoint, one_sentence
from worker.model.patch_tokens import GRID, patch_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from worker.model.engine.model_runner import Arithmetic
    from worker.model.inputs import Prompt
    from worker.model.loading import Checkpoint

__all__ = ["Generation", "Request", "ResidentModel"]

log = structlog.get_logger()

#: Longest request, prompt and answer together, unless the model or the caller wants it shorter: MedDr's positions.
CONTEXT_TOKENS = 4096


class ResidentModel:
    """A loaded checkpoint that looks at images and answers questions about them, from any thread."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        digest: str,
        *,
        slots: int,
        context_tokens: int,
        gpu_memory: int | None = None,
        demo: bool = False,
    ) -> None:
        self._checkpoint = checkpoint
        self._model = checkpoint.model
        self._make_prompt = checkpoint.make_prompt
        self.digest = digest
        #: Whether it is for phantoms only, never for patients.
        self.demo = demo
        self.name = checkpoint.name
        blank = np.zeros((64, 64, 3), np.uint8)
        prompt = self._make_prompt("", [blank])
        #: Prompt tokens that one image takes.
        self.image_tokens = len(self._make_prompt("", [blank, blank])) - len(prompt)
        #: Tokens one request may have, prompt and answer together.
        self.context_tokens = min(context_tokens, _positions(self._model))
        self.engine = Engine(
            self._size_batch(self._warm_up(prompt), len(prompt), slots, gpu_memory),
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
        gpu_memory_gib: float | None = None,
    ) -> ResidentModel:
        """Load *directory* and begin to serve up to *slots* requests at once.

        *device* is `auto`, `cpu`, `cuda` or `cuda:N`; *dtype* `auto` (as stored) or a torch name; *quantization*
        `int8` or `int4`; *gpu_memory_gib* is the most to plan with on each GPU. Raises ConfigurationError where the
        directory, the device or its memory will not do.
        """
        started = time.monotonic()
        limit = None if gpu_memory_gib is None else int(gpu_memory_gib * 2**30)
        checkpoint = load_checkpoint(directory, device=device, dtype=dtype, quantization=quantization, gpu_memory=limit)
        digest = checkpoint_digest(directory)
        with one_sentence(f"the checkpoint {directory} does not run"):
            resident = cls(
                checkpoint,
                digest,
                slots=slots,
                context_tokens=context_tokens,
                gpu_memory=limit,
                demo=is_demo(directory),
            )
        log.info("checkpoint_loaded", digest=digest[:12], seconds=round(time.monotonic() - started, 1))
        return resident

    @property
    def progress(self) -> int:
        """Counter of the engine's steps, with any request."""
        return self.engine.progress

    def submit(self, request: Request) -> Future[Generation]:
        """Queue a request; see Engine.submit. The prompt is made here, on the caller's thread."""
        try:
            prompt = self._make_prompt(request.question, request.images)
        except Exception as error:  # noqa: BLE001 - a request's boundary: what its images break is its own
            refused: Future[Generation] = Future()
            refused.set_exception(_unfit(error))
            return refused
        return self.engine.submit(request, prompt)

    @torch.inference_mode()
    def patch_tokens(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """What the vision tower sees at each place of each image, as worker.retrieval.features takes it.

        float32 [images, layers, patches, channels]; one image at a time, so that a large tower's need little room.
        """
        return np.concatenate([self._look(image).float().cpu().numpy() for image in images])

    def close(self) -> None:
        """Stop serving; requests under way fail as transient."""
        self.engine.close()

    def _look(self, image: npt.NDArray[np.uint8]) -> torch.Tensor:
        # Where an image is cut into tiles, the last one shows all of it: places must mean the same in every image.
        seen = self._make_prompt.seen(image)
        if self._model.config.model_type in INTERNVL:
            pixels = seen["pixel_values"][-1:].to(self._model.device, self._model.dtype)
            return _coarse(patch_tokens(self._model.model.vision_tower, pixels))
        # Other towers are built otherwise: what they give in the end is all that is common to them.
        seen = {name: value.to(self._model.device) for name, value in seen.items()}
        seen["pixel_values"] = seen["pixel_values"].to(self._model.dtype)
        tiles: torch.Tensor = self._model.get_image_features(**seen).last_hidden_state
        # Of several tiles one shows the whole image: LLaVA's first (it takes sizes beside the pixels), Idefics' last.
        whole = tiles[:1] if "image_sizes" in seen else tiles[-1:]
        return _coarse(whole[:, None])

    def _warm_up(self, prompt: Prompt) -> StockRunner:
        """Run one prompt, so that kernels are chosen and workspaces taken before memory is measured."""
        runner = StockRunner(self._model, tokens=self.context_tokens, not_first=self._checkpoint.not_first)
        if prompt.unseen:
            runner.see([prompt], prompt.unseen)
        if runner.prefill(0, prompt, 0, len(prompt)) == NO_TOKEN:
            raise ConfigurationError(
                f"the checkpoint {self.name} computes no finite numbers: its weights are damaged, or too large for "
                f"{str(self._model.dtype).removeprefix('torch.')}"
            )
        return runner

    def _size_batch(self, warm: StockRunner, prompt_tokens: int, slots: int, gpu_memory: int | None) -> Arithmetic:
        """As many rows as asked for, or as fit beside the model."""
        if not batches(self._model, warm, prompt_tokens):
            log.warning("requests_run_one_by_one", model_type=self._model.config.model_type)
            warm.wipe(0)
            return warm
        costs = placement.cache_bytes_per_token(warm.cache)
        warm.wipe(0)
        fit = placement.rows_that_fit(costs, self.context_tokens, placement.free_memory(costs, gpu_memory))
        if fit < 1:
            raise ConfigurationError(
                f"no memory is left for one request of {self.context_tokens} tokens "
                f"({sum(costs.values()) * self.context_tokens / 2**30:.1f} GiB): allow fewer or use a larger device"
            )
        if fit < slots:
            log.warning("fewer_slots_than_asked", slots=fit, asked=slots)
        rows, not_first = min(slots, fit), self._checkpoint.not_first
        return SlotRunner(self._model, rows=rows, tokens=self.context_tokens, not_first=not_first).warm_up()

    def _detokenize(self, tokens: list[int]) -> str:
        text: str = self._checkpoint.tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip()


def _unfit(error: Exception) -> PermanentFailure:
    if isinstance(error, PermanentFailure):
        return error
    failure = PermanentFailure(Reason.PROMPT_FAILED, f"no prompt can be made of this request ({type(error).__name__})")
    failure.__cause__ = error
    return failure


def _coarse(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens [1, layers, patches, channels] on no finer a grid than the pooling reads: means of neighbouring places."""
    side = math.isqrt(tokens.shape[2])
    if side <= GRID or side**2 != tokens.shape[2]:
        return tokens
    layers, patches, channels = tokens.shape[1:]
    grid = tokens.float().transpose(2, 3).reshape(layers, channels, side, patches // side)
    return torch.nn.functional.adaptive_avg_pool2d(grid, GRID).flatten(2).transpose(1, 2)[None]


def _positions(model: object) -> int:
    config = model.config.get_text_config()  # type: ignore[attr-defined]
    return int(config.max_position_embeddings)
