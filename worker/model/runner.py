"""The arithmetic: pictures, prompts and tokens through the model. Knows rows and tensors, no requests or threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from worker.model.slots import SlotCache, Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import Cache

    from worker.model.prompts import Prompt

#: Columns of the mask are rounded up to this: fused attention on CUDA wants its stride to be a multiple of 8.
ALIGNMENT = 8


class Runner(ABC):
    """Runs a model over the rows of a cache, one thread at a time; `rows` requests of up to `tokens` tokens each."""

    def __init__(self, model: Any, *, rows: int, tokens: int) -> None:
        self.rows = rows
        self.tokens = tokens
        self._model = model
        self._embed = model.get_input_embeddings()

    @torch.inference_mode()
    def see(self, prompts: Sequence[Prompt], tiles: int) -> None:
        """Show the vision tower the next *tiles* pictures of *prompts*, in one batch."""
        owners = [prompt for prompt in prompts for _ in range(prompt.unseen)][:tiles]
        pixels = [prompt.next_tiles(owners.count(prompt)) for prompt in dict.fromkeys(owners)]
        features = self._model.get_image_features(torch.cat(pixels).to(self._device, self._model.dtype)).pooler_output
        for prompt, tile in zip(owners, features, strict=True):
            prompt.features.append(tile)

    @abstractmethod
    def prefill(self, row: int, prompt: Prompt, start: int, count: int) -> int:
        """Read *count* tokens of *prompt* from *start* on into *row*; returns the token that follows them."""

    @abstractmethod
    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """One step of rows 0..n-1: append *tokens* at *lengths*; returns the token that follows each."""

    @abstractmethod
    def move(self, source: int, target: int, length: int) -> None:
        """Give the request in *source* the wiped row *target*; leaves *source* wiped."""

    @abstractmethod
    def wipe(self, row: int) -> None:
        """Forget all that a row holds."""

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._embed.weight.device
        return device

    def _read(self, cache: Cache, prompt: Prompt, start: int, count: int) -> int:
        if prompt.divisible:
            inputs = {"inputs_embeds": self._embeddings(prompt)[None, start : start + count]}
        else:
            inputs = {name: value.to(self._device) for name, value in prompt.extra.items()}
            inputs["input_ids"] = prompt.input_ids[None].to(self._device)
        return int(self._forward(cache, **inputs).argmax(-1))

    def _forward(self, cache: Cache, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits of the last position, [rows, vocabulary]."""
        output = self._model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _embeddings(self, prompt: Prompt) -> torch.Tensor:
        """The prompt's [tokens, hidden], pictures filled in."""
        if prompt.embeddings is None:
            ids = prompt.input_ids.to(self._device)
            prompt.embeddings = self._embed(ids)
            if prompt.features:
                features = torch.cat(prompt.features).to(prompt.embeddings)
                pictured = (ids == self._model.config.image_token_id)[:, None]
                prompt.embeddings = prompt.embeddings.masked_scatter(pictured, features)
        return prompt.embeddings


class SlotRunner(Runner):
    """All rows decode together, each at its own position, over a cache allocated once."""

    def __init__(self, model: Any, *, rows: int, tokens: int) -> None:
        super().__init__(model, rows=rows, tokens=tokens)
        self._cache = SlotCache(model.config.get_text_config().num_hidden_layers, rows, tokens)

    @torch.inference_mode()
    def prefill(self, row: int, prompt: Prompt, start: int, count: int) -> int:
        """See Runner."""
        return self._read(self._cache.look_at(Window(row=row, start=start)), prompt, start, count)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """See Runner."""
        positions = torch.tensor(lengths, device=self._device)
        width = min(self.tokens, -(-(max(lengths) + 1) // ALIGNMENT) * ALIGNMENT)
        visible = torch.arange(width, device=self._device) <= positions[:, None]
        logits = self._forward(
            self._cache.look_at(Window(width=width, positions=positions)),
            input_ids=torch.tensor(tokens, device=self._device)[:, None],
            position_ids=positions[:, None],
            attention_mask=visible[:, None, None],
        )
        return [int(token) for token in logits.argmax(-1).tolist()]

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        """See Runner."""
        self._cache.move(source, target, length)

    @torch.inference_mode()
    def wipe(self, row: int) -> None:
        """See Runner."""
        self._cache.wipe(row)


class StockRunner(Runner):
    """One request at a time over transformers' own cache: for models with sliding windows or positions of their own."""

    def __init__(self, model: Any, *, tokens: int) -> None:
        super().__init__(model, rows=1, tokens=tokens)
        self.wipe(0)

    @torch.inference_mode()
    def prefill(self, row: int, prompt: Prompt, start: int, count: int) -> int:  # noqa: ARG002 - the only row
        """See Runner."""
        return self._read(self.cache, prompt, start, count)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> list[int]:  # noqa: ARG002 - the cache knows
        """See Runner."""
        return [int(self._forward(self.cache, input_ids=torch.tensor([tokens], device=self._device)).argmax(-1))]

    def move(self, source: int, target: int, length: int) -> None:
        """See Runner; there is no second row to move to."""
        raise NotImplementedError((source, target, length))

    def wipe(self, row: int) -> None:  # noqa: ARG002 - the only row
        """See Runner."""
        self.cache = DynamicCache(config=self._model.config.get_text_config())


def batches(model: Any, cache: Cache) -> bool:
    """Whether SlotRunner computes what *model* does: every layer keeps all tokens, positions are plain counts."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return all(type(layer) is DynamicLayer for layer in cache.layers) and "mrope_section" not in rope
