"""What a checkpoint takes: read from its configuration and headers, nothing is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig

from worker.model import placement
from worker.model.loading import LOCAL_DATA_ONLY, check_layout, one_sentence
from worker.model.shards import Source, tensor_bytes

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30
#: Memory beyond weights and cache that prefill and vision were allowed for, in bytes; not measured on a GPU yet.
WORKSPACE = 2 * GIB
#: GPUs to answer "how many requests fit" for where none is here, in bytes as their driver reports them.
CARDS = {"80 GB": 81_559 * 2**20, "2 x 48 GB": 2 * 49_140 * 2**20, "141 GB": 143_771 * 2**20}
#: A request as reports are: one picture, three earlier reports, 200 new tokens.
REQUEST_TOKENS = 1024


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

    def lines(self) -> list[tuple[str, str]]:
        """Name and value, for people."""
        lines = [
            ("architecture", self.model_type),
            ("parameters", f"{self.parameters / 1e9:.3f} B, {self.dtype}"),
            ("weights", f"{self.weight_bytes / GIB:.2f} GiB"),
            ("memory for one request", f"{self.needed(1) / GIB:.2f} GiB of {REQUEST_TOKENS} tokens"),
            ("cache per token", f"{self.kv_bytes_per_token:,} bytes"),
            ("longest request", f"{self.context_tokens} tokens"),
            ("tokens per picture", str(self.image_tokens or "the processor decides")),
        ]
        cards = placement.gpu_memory()
        known = {f"cuda:{number}": free for number, free in cards.items()} or CARDS
        lines += [(f"requests on {card}", self._fit(memory)) for card, memory in known.items()]
        return lines

    def needed(self, requests: int) -> int:
        """Bytes for the weights and *requests* requests."""
        return self.weight_bytes + WORKSPACE + requests * REQUEST_TOKENS * self.kv_bytes_per_token

    def _fit(self, memory: int) -> str:
        left = memory - self.needed(0)
        count = left // (REQUEST_TOKENS * self.kv_bytes_per_token)
        return f"{count} of {REQUEST_TOKENS} tokens" if count > 0 else "does not fit"


def measure(directory: Path) -> Facts:
    """The facts of *directory*; ConfigurationError where it is no checkpoint."""
    check_layout(directory)
    source = Source(directory)
    with one_sentence(f"{directory}/config.json cannot be used"):
        return _facts(AutoConfig.from_pretrained(directory, **LOCAL_DATA_ONLY), source)


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
