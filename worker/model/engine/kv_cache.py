"""KV cache of a continuous batch: one row per running sequence, allocated once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin


@dataclass(slots=True)
class CacheView:
    """The part of the cache that the current forward reads and writes; all layers share it.

    Prefill: one row, from `start` on. Decode (`positions` set): the first `len(positions)` rows, one token each at
    its own position, reading the first `width` columns.
    """

    row: int = 0
    start: int = 0
    width: int = 0
    positions: torch.Tensor | None = None
    _indices: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def write_indices(self, positions: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rows and *positions* on a layer's device; layers may be spread over several devices."""
        if device not in self._indices:
            self._indices[device] = torch.arange(len(positions), device=device), positions.to(device)
        return self._indices[device]


class KVCacheLayer(CacheLayerMixin):
    """Keys and values of one layer, [rows, tokens, heads, head_dim].

    Tokens come before heads (the reverse of transformers) so that a decode step writes one contiguous piece per row;
    attention gets transposed views. transformers' StaticLayer is no alternative: it has one length for all rows.
    """

    def __init__(self, rows: int, tokens: int) -> None:
        super().__init__()
        self._shape = rows, tokens
        self.view = CacheView()

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate on the layer's device, as zeros: masked positions are multiplied by 0, and 0 x NaN is NaN."""
        self.keys, self.values = (
            torch.zeros(*self._shape, states.shape[1], states.shape[3], dtype=states.dtype, device=states.device)
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store [batch, heads, new, head_dim]; return the keys and values of the view in the same layout."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.view.positions is None:
            return self._prefill(key_states, value_states)
        return self._decode(key_states, value_states, self.view.positions)

    def _prefill(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        row, end = self.view.row, self.view.start + keys.shape[2]
        self.keys[row, self.view.start : end] = keys[0].transpose(0, 1)
        self.values[row, self.view.start : end] = values[0].transpose(0, 1)
        read = slice(row, row + 1), slice(end)
        return self.keys[read].transpose(1, 2), self.values[read].transpose(1, 2)

    def _decode(
        self, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        written = self.view.write_indices(positions, keys.device)
        self.keys[written], self.values[written] = keys[:, :, 0], values[:, :, 0]
        read = slice(len(keys)), slice(self.view.width)
        return self.keys[read].transpose(1, 2), self.values[read].transpose(1, 2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return length and offset of the keys that a prefill attends to."""
        return self.view.start + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of tokens before those of the current forward."""
        return self.view.start

    def get_max_length(self) -> int:
        """Return the number of tokens in one row."""
        return self._shape[1]


class KVCache(Cache):
    """The cache of all layers, passed to transformers' forward as `past_key_values`."""

    def __init__(self, layers: int, rows: int, tokens: int) -> None:
        super().__init__(layers=[KVCacheLayer(rows, tokens) for _ in range(layers)])

    @property
    def devices(self) -> set[torch.device]:
        """Devices of the allocated layers."""
        return {layer.keys.device for layer in self.layers if layer.is_initialized}

    def select(self, view: CacheView) -> KVCache:
        """Set *view* in every layer for the next forward."""
        for layer in self.layers:
            layer.view = view
        return self

    def move_row(self, source: int, target: int, length: int) -> None:
        """Copy the first *length* tokens of a row to the clear row *target*, and clear *source*."""
        for layer in self.layers:
            for states in (layer.keys, layer.values):
                states[target, :length] = states[source, :length]
                states[source, :length] = 0

    def clear_row(self, row: int) -> None:
        """Set a row to zeros: no content is left, and no infinity that a masked product could propagate."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys[row] = 0
                layer.values[row] = 0
