"""Memory that a checkpoint needs, computed from its configuration and headers without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig

from worker.model import placement
from worker.model.checkpoint.shards import Source, tensor_bytes
from worker.model.loading import LOCAL_DATA_ONLY, as_configuration_error, check_layout, load_prompts

if TYPE_CHECKING:
    from pathlib import Path

#: Memory of a GPU's context and libraries, in bytes; estimated, not measured.
GPU_OVERHEAD_BYTES = 2**30
#: GPUs shown if this machine has none: number, and bytes of each as its driver reports them.
EXAMPLE_GPUS = {"80 GB": (1, 81_559 * 2**20), "2 x 48 GB": (2, 49_140 * 2**20), "141 GB": (1, 143_771 * 2**20)}


@dataclass(frozen=True, slots=True)
class CheckpointSize:
    """Sizes of a checkpoint; memory in bytes."""

    model_type: str
    dtype: str
    parameters: int
    weight_bytes: int
    kv_bytes_per_token: int
    context_tokens: int
    image_tokens: int | None

    def rows(self, slot_tokens: int) -> list[tuple[str, str]]:
        """Return names and values to print; *slot_tokens* is the longest request of the worker's settings."""
        slot = min(slot_tokens, self.context_tokens)
        on_one, on_two = self.memory_needed(slot, 1), self.memory_needed(slot, 2)
        here = {f"cuda:{number}": (1, free) for number, free in placement.gpu_memory().items()}
        return [
            ("architecture", self.model_type),
            ("parameters", f"{self.parameters:,}, {self.dtype}"),
            ("weights", _format_bytes(self.weight_bytes)),
            ("KV cache per token", f"{self.kv_bytes_per_token:,} bytes"),
            ("longest request", f"{slot} tokens (limit of the model: {self.context_tokens})"),
            ("KV cache of one slot", _format_bytes(slot * self.kv_bytes_per_token)),
            ("memory for one slot", f"{on_one} on one GPU, {on_two} on each of two"),
            ("tokens per image", str(self.image_tokens or "set by the processor")),
            *((f"slots on {name}", self.slots_on(slot, *gpus)) for name, gpus in (here or EXAMPLE_GPUS).items()),
        ]

    def memory_needed(self, slot: int, gpus: int) -> str:
        """Return the minimum memory of each of *gpus* GPUs for one slot of *slot* tokens, layers spread evenly."""
        cache = slot * self.kv_bytes_per_token / placement.CACHE_SHARE
        return _format_bytes(GPU_OVERHEAD_BYTES + int(self.weight_bytes + cache) // gpus)

    def slots_on(self, slot: int, gpus: int, memory: int) -> str:
        """Return, as text, the number of slots of *slot* tokens that fit on *gpus* GPUs of *memory* bytes each."""
        left = int(placement.CACHE_SHARE * (memory - GPU_OVERHEAD_BYTES - self.weight_bytes // gpus))
        count = left * gpus // (slot * self.kv_bytes_per_token)
        return f"{count} of {slot} tokens" if count > 0 else "does not fit"


def _format_bytes(count: int) -> str:
    unit, name = next(((u, n) for u, n in ((2**30, "GiB"), (2**20, "MiB")) if count >= u), (2**10, "KiB"))
    return f"{count / unit:.1f} {name}"


def measure(directory: Path) -> CheckpointSize:
    """Return the sizes of *directory*; raises ConfigurationError if it is not a complete checkpoint."""
    check_layout(directory)
    source = Source(directory)
    with as_configuration_error(f"the checkpoint {directory} cannot be used"):
        config = AutoConfig.from_pretrained(directory, **LOCAL_DATA_ONLY)
        load_prompts(directory, config)
        return _size_of(config, source)


def _size_of(config: Any, source: Source) -> CheckpointSize:
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    dtype = config.dtype or torch.float32
    return CheckpointSize(
        model_type=config.model_type,
        dtype=str(dtype).removeprefix("torch."),
        parameters=sum(torch.Size(shape).numel() for shape in source.shapes.values()),
        weight_bytes=sum(tensor_bytes(shape, dtype) for shape in source.shapes.values()),
        kv_bytes_per_token=2 * text.num_hidden_layers * heads * head_dim * dtype.itemsize,
        context_tokens=text.max_position_embeddings,
        image_tokens=getattr(config, "image_seq_length", None),
    )
