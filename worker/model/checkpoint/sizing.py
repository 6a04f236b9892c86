"""What a checkpoint takes: read from its configuration and headers, nothing is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig

from worker.model import placement
from worker.model.checkpoint.shards import Source, tensor_bytes
from worker.model.loading import LOCAL_DATA_ONLY, check_layout, load_prompts, one_sentence

if TYPE_CHECKING:
    from pathlib import Path

#: Memory beside weights and cache that a GPU's context and libraries take, in bytes; a guess, not measured.
OVERHEAD = 2**30
#: GPUs to answer "how many requests fit" for where none is here: number, and bytes of each as its driver reports them.
CARDS = {"80 GB": (1, 81_559 * 2**20), "2 x 48 GB": (2, 49_140 * 2**20), "141 GB": (1, 143_771 * 2**20)}


@dataclass(frozen=True, slots=True)
class Facts:
    """A checkpoint's sizes, in bytes and numbers."""

    model_type: str
    dtype: str
    parameters: int
    weight_bytes: int
    kv_bytes_per_token: int
    context_tokens: int
    image_tokens: int | None

    def lines(self, slot_tokens: int) -> list[tuple[str, str]]:
        """Name and value, for people; *slot_tokens* is the longest request that the worker makes room for."""
        slot = min(slot_tokens, self.context_tokens)
        here = {f"cuda:{number}": (1, free) for number, free in placement.gpu_memory().items()}
        return [
            ("architecture", self.model_type),
            ("parameters", f"{self.parameters:,}, {self.dtype}"),
            ("weights", _size(self.weight_bytes)),
            ("cache per token", f"{self.kv_bytes_per_token:,} bytes"),
            ("longest request", f"{slot} tokens (the model knows {self.context_tokens})"),
            ("cache of one slot", _size(slot * self.kv_bytes_per_token)),
            ("memory for one slot", f"{self._needed(slot, 1)} on one device, {self._needed(slot, 2)} on each of two"),
            ("tokens per image", str(self.image_tokens or "the processor decides")),
            *((f"slots on {name}", self._fit(slot, *cards)) for name, cards in (here or CARDS).items()),
        ]

    def _needed(self, slot: int, cards: int) -> str:
        """The least memory of each of *cards* devices, layers spread evenly."""
        cache = slot * self.kv_bytes_per_token / placement.CACHE_SHARE
        return _size(OVERHEAD + int(self.weight_bytes + cache) // cards)

    def _fit(self, slot: int, cards: int, memory: int) -> str:
        """How many slots a worker makes on *cards* cards of *memory* bytes, layers spread evenly."""
        left = int(placement.CACHE_SHARE * (memory - OVERHEAD - self.weight_bytes // cards))
        count = left * cards // (slot * self.kv_bytes_per_token)
        return f"{count} of {slot} tokens" if count > 0 else "does not fit"


def _size(count: int) -> str:
    unit, name = next(((u, n) for u, n in ((2**30, "GiB"), (2**20, "MiB")) if count >= u), (2**10, "KiB"))
    return f"{count / unit:.1f} {name}"


def measure(directory: Path) -> Facts:
    """The facts of *directory*; ConfigurationError where it is no checkpoint, or lacks tokenizer or processor."""
    check_layout(directory)
    source = Source(directory)
    with one_sentence(f"the checkpoint {directory} cannot be used"):
        config = AutoConfig.from_pretrained(directory, **LOCAL_DATA_ONLY)
        load_prompts(directory, config)
        return _facts(config, source)


def _facts(config: Any, source: Source) -> Facts:
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    dtype = config.dtype or torch.float32
    return Facts(
        model_type=config.model_type,
        dtype=str(dtype).removeprefix("torch."),
        parameters=sum(torch.Size(shape).numel() for shape in source.shapes.values()),
        weight_bytes=sum(tensor_bytes(shape, dtype) for shape in source.shapes.values()),
        kv_bytes_per_token=2 * text.num_hidden_layers * heads * head_dim * dtype.itemsize,
        context_tokens=text.max_position_embeddings,
        image_tokens=getattr(config, "image_seq_length", None),
    )
