"""The key/value cache of a continuous batch: one row per running request, allocated once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin


@dataclass(slots=True)
class Window:
    """Which part of the cache the forward under way reads and writes; every layer looks here.

    Prefill: one row, from `start` on. Decode (`positions` set): the first `len(positions)` rows, one token each at
    its own position, reading the first `width` columns.
    """

    row: int = 0
    start: int = 0
    width: int = 0
    positions: torch.Tensor | None = None
    _placed: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def places(self, positions: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and *positions* on a layer's own device (layers may be spread over several)."""
        if device not in self._placed:
            self._placed[device] = torch.arange(len(positions), device=device), positions.to(device)
        return self._placed[device]


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, [rows, tokens, heads, head_dim].

    Tokens come before heads (transformers has it the other way) so that a decode step writes one contiguous piece per
    row; attention gets transposed views. StaticLayer would not do: it has one length for all rows.
    """

    def __init__(self, rows: int, tokens: int) -> None:
        super().__init__()
        self._shape = rows, tokens
        self.window = Window()

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate on the layer's device. Zeros: what a mask hides is still multiplied by 0, and 0 x NaN is NaN."""
        self.keys, self.values = (
            torch.zeros(*self._shape, states.shape[1], states.shape[3], dtype=states.dtype, device=states.device)
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store [batch, heads, new, head_dim] and return all that attention may look at, in the same layout."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.window.positions is None:
            return self._prefill(key_states, value_states)
        return self._decode(key_states, value_states, self.window.positions)

    def _prefill(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        row, end = self.window.row, self.window.start + keys.shape[2]
        self.keys[row, self.window.start : end] = keys[0].transpose(0, 1)
        self.values[row, self.window.start : end] = values[0].transpose(0, 1)
        read = slice(row, row + 1), slice(end)
        return self.keys[read].transpose(1, 2), self.values[read].transpose(1, 2)

    def _decode(
        self, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        place = self.window.places(positions, keys.device)
        self.keys[place], self.values[place] = keys[:, :, 0], values[:, :, 0]
        read = slice(len(keys)), slice(self.window.width)
        return self.keys[read].transpose(1, 2), self.values[read].transpose(1, 2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that a prefill sees."""
        return self.window.start + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens before the ones of this forward."""
        return self.window.start

    def get_max_length(self) -> int:
        """Tokens a row can hold."""
        return self._shape[1]


class SlotCache(Cache):
    """What transformers' forward takes as `past_key_values`."""

    def __init__(self, layers: int, rows: int, tokens: int) -> None:
        super().__init__(layers=[SlotLayer(rows, tokens) for _ in range(layers)])

    @property
    def devices(self) -> set[torch.device]:
        """Where the layers allocated so far lie."""
        return {layer.keys.device for layer in self.layers if layer.is_initialized}

    def look_at(self, window: Window) -> SlotCache:
        """Point every layer to *window* for the next forward."""
        for layer in self.layers:
            layer.window = window
        return self

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first *length* tokens to another row and wipe it; the target must be clean beyond."""
        for layer in self.layers:
            for states in (layer.keys, layer.values):
                states[target, :length] = states[source, :length]
                states[source, :length] = 0

    def wipe(self, row: int) -> None:
        """Leave nothing of a request behind: not its content, and no infinity that a masked product could spread."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys[row] = 0
                layer.values[row] = 0
