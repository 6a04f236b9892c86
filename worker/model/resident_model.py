"""The model of a worker process: load, warm up, measure memory, allocate the KV cache, capture graphs, serve, close."""

from __future__ import annotations

import time
from concurrent.futures import Future
from os.path import commonprefix
from typing import TYPE_CHECKING

import numpy as np
import structlog

from db.errors import ConfigurationError, PermanentFailure, Reason
from worker.model import placement
from worker.model.checkpoint.manifest import check_files, check_unchanged, read_manifest
from worker.model.checkpoint.recording import check_spoken, check_use
from worker.model.engine.engine import Engine
from worker.model.engine.model_runner import NO_TOKEN
from worker.model.engine.transformers_runner import BatchedRunner, SingleRunner, supports_batching
from worker.model.loading import as_configuration_error, check_layout, load_checkpoint
from worker.model.patch_tokens import image_patch_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from worker.model.checkpoint.manifest import Manifest
    from worker.model.engine.request import Generation, Request
    from worker.model.inputs import Prompt
    from worker.model.loading import Checkpoint

log = structlog.get_logger()

#: Longest request in tokens, prompt and answer together, unless model or caller set a lower limit: MedDr's positions.
CONTEXT_TOKENS = 4096


class ResidentModel:
    """A loaded checkpoint and its engine; all methods may be called from any thread.

    `digest` identifies the checkpoint, `demo` is True if it is for phantoms only and never for patients,
    `prompt_version` is the wording that it was trained for, and `context_tokens` is the limit of one request, prompt
    and answer together.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        manifest: Manifest,
        *,
        context_tokens: int,
        quantization: str | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.manifest = manifest
        self.digest = manifest.digest
        self.demo = manifest.demo
        self.prompt_version = manifest.prompt_version
        self._quantization = quantization or "none"
        self.name = checkpoint.name
        self.context_tokens = min(context_tokens, checkpoint.max_positions)
        #: Names of the GPUs that hold weights: read now, because a lost GPU has none.
        self.gpus = placement.gpu_names(parameter.device for parameter in checkpoint.model.parameters())
        self.engine: Engine

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
        cuda_graphs: bool = False,
    ) -> ResidentModel:
        """Load *directory* and serve up to *slots* requests at once.

        *device* is `auto`, `cpu`, `cuda` or `cuda:N`; *dtype* is `auto` (as stored) or a torch name; *quantization* is
        `int8` or `int4`; *gpu_memory_gib* limits the memory planned on each GPU. Raises ConfigurationError if the
        checkpoint, the device or its memory cannot be used.
        """
        started = time.monotonic()
        limit = None if gpu_memory_gib is None else int(gpu_memory_gib * 2**30)
        check_layout(directory)
        manifest = read_manifest(directory)
        check_use(directory, manifest)
        read = check_files(directory, manifest)
        checkpoint = load_checkpoint(directory, device=device, dtype=dtype, quantization=quantization, gpu_memory=limit)
        check_unchanged(directory, read)
        with as_configuration_error(f"the checkpoint {directory} does not run"):
            check_spoken(checkpoint, manifest, quantized=quantization is not None)
            model = cls(
                checkpoint,
                manifest,
                context_tokens=context_tokens,
                quantization=quantization,
            )
            model.start(slots, gpu_memory=limit, cuda_graphs=cuda_graphs)
        if manifest.skipped:
            log.warning("checkpoint.unchecked", skipped=", ".join(manifest.skipped), digest=manifest.digest[:12])
        log.info("checkpoint.loaded", digest=manifest.digest[:12], seconds=round(time.monotonic() - started, 1))
        return model

    def start(self, slots: int, *, gpu_memory: int | None = None, cuda_graphs: bool = False) -> None:
        """Warm up, measure memory, allocate the KV cache, capture graphs if asked, and start to serve."""
        runner: SingleRunner | BatchedRunner
        prompt = self.checkpoint.prompts.build("", [np.zeros((64, 64, 3), np.uint8)])
        runner = warm = self._warm_up(prompt)
        if supports_batching(self.checkpoint.model, warm, len(prompt)):
            slots = self._measure_memory(warm, slots, gpu_memory)
            runner = self._allocate_kv_cache(slots)
            if cuda_graphs:
                runner.capture_graphs()
        else:
            log.warning("batching.unsupported", model_type=self.checkpoint.model.config.model_type, slots=1)
            warm.clear_row(0)
        self.engine = self._serve(runner)

    @property
    def setup(self) -> dict[str, str]:
        """Number format, quantization, device, and the checks that were skipped when the checkpoint was recorded."""
        model = self.checkpoint.model
        number_format = str(model.dtype).removeprefix("torch.")
        found = {"number_format": number_format, "quantization": self._quantization, "device": model.device.type}
        return found | ({"skipped_checks": ", ".join(self.manifest.skipped)} if self.manifest.skipped else {})

    @property
    def progress(self) -> int:
        """Number of steps the engine has made, for any request."""
        return self.engine.progress

    def submit(self, request: Request) -> Future[Generation]:
        """Queue a request; see Engine.submit. The prompt is built on the caller's thread.

        The future raises PermanentFailure if no prompt can be built.
        """
        try:
            prompt = self.checkpoint.prompts.build(request.question, request.images)
            prompt.options = [self.checkpoint.prompts.answer_ids(text) for text in request.scored]
        except Exception as error:  # noqa: BLE001 - the boundary of a request: errors in its images are its own
            refused: Future[Generation] = Future()
            refused.set_exception(_prompt_error(error))
            return refused
        return self.engine.submit(request, prompt)

    def text_tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self.checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt_tokens(self, question: str, images: Sequence[npt.NDArray[np.uint8]]) -> int:
        """Return the number of tokens of a request before the answer."""
        return self.checkpoint.prompts.length(question, images)

    def token_ends(self, generation: Generation) -> list[int]:
        """Return the offset in the answer's text at which each of its tokens ends; a blank belongs to the next token.

        A prefix is decoded for each token, because a tokenizer may merge blanks and bytes of neighbours.
        """
        text, ends = generation.text, [0]
        for count in range(1, len(generation.token_ids) + 1):
            part = self._detokenize(generation.token_ids[:count])
            same = len(part) if text.startswith(part) else len(commonprefix([part, text]))  # noqa: RUF071 - characters are meant
            ends.append(max(same, ends[-1]))
        return ends[1:]

    def patch_tokens(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Patch tokens of the vision tower, float32 [images, layers, patches, channels].

        One image at a time: a batch of a large tower would need memory that the KV cache has taken.
        """
        model, prompts = self.checkpoint.model, self.checkpoint.prompts
        return np.concatenate([image_patch_tokens(model, prompts, image).float().cpu().numpy() for image in images])

    def close(self) -> None:
        """Stop serving; running requests fail with TransientFailure."""
        self.engine.close()

    def _warm_up(self, prompt: Prompt) -> SingleRunner:
        """Run *prompt*, so that kernels are chosen and workspaces allocated before memory is measured."""
        runner = SingleRunner(
            self.checkpoint.model, max_tokens=self.context_tokens, not_first=self.checkpoint.not_first
        )
        if prompt.pending_tiles:
            runner.encode_images([prompt], prompt.pending_tiles)
        if runner.prefill(0, prompt, 0, len(prompt)).token == NO_TOKEN:
            dtype = str(self.checkpoint.model.dtype).removeprefix("torch.")
            raise ConfigurationError(
                f"the checkpoint {self.name} computes non-finite numbers: its weights are damaged, or too "
                f"large for {dtype}"
            )
        return runner

    def _measure_memory(self, warm: SingleRunner, slots: int, gpu_memory: int | None) -> int:
        """Return the number of sequences: *slots*, or fewer if the memory beside the model is short."""
        costs = placement.cache_bytes_per_token(warm.cache)
        warm.clear_row(0)
        fit = placement.rows_that_fit(costs, self.context_tokens, placement.free_memory(costs, gpu_memory))
        if fit < 1:
            raise ConfigurationError(
                f"not enough memory for one request of {self.context_tokens} tokens "
                f"({sum(costs.values()) * self.context_tokens / 2**30:.1f} GiB): set a lower PRELIM_CONTEXT_TOKENS or "
                "use a device with more memory"
            )
        if fit < slots:
            log.warning("slots.reduced", cause="not enough memory", slots=fit, requested=slots)
        return min(slots, fit)

    def _allocate_kv_cache(self, sequences: int) -> BatchedRunner:
        runner = BatchedRunner(
            self.checkpoint.model,
            max_sequences=sequences,
            max_tokens=self.context_tokens,
            not_first=self.checkpoint.not_first,
        )
        runner.allocate()
        return runner

    def _serve(self, runner: SingleRunner | BatchedRunner) -> Engine:
        return Engine(runner, stop_tokens=self.checkpoint.stop_tokens, detokenize=self._detokenize).start()

    def _detokenize(self, tokens: list[int]) -> str:
        text: str = self.checkpoint.tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip()


def _prompt_error(error: Exception) -> PermanentFailure:
    if isinstance(error, PermanentFailure):
        return error
    failure = PermanentFailure(
        Reason.PROMPT_FAILED, f"no prompt can be built from this request ({type(error).__name__})"
    )
    failure.__cause__ = error
    return failure
