"""Which tensors of the published layout make each tensor of the stock layout.

Names are those of sunanhe/MedDr's InternVLChatModel (src/model/internvl_chat) and of transformers' InternVL. The
language model of the publication is still wrapped by peft, its low-rank updates beside the weights: left out in
silence, they would leave a model that never saw a medical image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from worker.model.checkpoint.shards import Shape, Source

#: Published prefix or part -> stock, applied in this order.
_RENAMES = (
    (r"^vision_model\.embeddings\.class_embedding$", "model.vision_tower.embeddings.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding$", "model.vision_tower.embeddings.position_embeddings"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "model.vision_tower.embeddings.patch_embeddings.projection."),
    (r"^vision_model\.encoder\.layers\.", "model.vision_tower.encoder.layer."),
    (r"\.attn\.([qk])_norm\.", r".attention.\1_norm."),
    (r"\.attn\.proj\.", ".attention.projection_layer."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.ls([12])$", r".lambda_\1"),
    (r"^mlp1\.0\.", "model.multi_modal_projector.layer_norm."),
    (r"^mlp1\.1\.", "model.multi_modal_projector.linear_1."),
    (r"^mlp1\.3\.", "model.multi_modal_projector.linear_2."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.", "model.language_model."),
)
#: What lies in the tower's joint matrix, in this order.
_THIRDS = "qkv"
#: peft's wrapping: around the model, around a linear layer (from 0.7 on), and its own tensors.
_WRAPPER = "base_model.model."
_LORA = re.compile(r"\.lora_([AB])(?:\.default)?\.weight$")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one stock tensor is made: a published one, its low-rank update added, a third of it taken."""

    source: str
    update: tuple[str, str] | None = None
    third: int | None = None

    def shape(self, source: Source) -> Shape:
        """What it will be, from the shards' headers alone; ConfigurationError where the update does not fit."""
        shape = source.shapes[self.source]
        if self.third is not None and (not shape or shape[0] % len(_THIRDS)):
            raise ConfigurationError(f"{self.source} {shape} cannot be cut in three")
        if self.update is not None:
            down, up = (source.shapes[name] for name in self.update)
            matrices = all(len(sides) == len(("out", "in")) for sides in (shape, down, up))
            if not matrices or (up[0], down[1], up[1]) != (*shape, down[0]):
                raise ConfigurationError(f"{self.update[0]} {down} and {up} do not fit {self.source} {shape}")
        return (shape[0] // len(_THIRDS), *shape[1:]) if self.third is not None else shape

    def make(self, source: Source, scale: float) -> torch.Tensor:
        """The tensor. An update is merged in float32, so that it is rounded once, on writing."""
        tensor = source.read(self.source)
        if self.update is not None:
            down, up = (source.read(name).float() for name in self.update)
            tensor = tensor.float().addmm_(up, down, alpha=scale)
        return tensor if self.third is None else tensor.chunk(len(_THIRDS))[self.third]


def recipes(names: Iterable[str]) -> dict[str, Recipe]:
    """Stock name -> recipe for all published *names*."""
    plain, updates = _unwrap(names)
    made: dict[str, Recipe] = {}
    for name, source in plain.items():
        update = updates.pop(name.removesuffix(".weight"), None) if name.endswith(".weight") else None
        for stock, recipe in _stock(name, source, update).items():
            _only_once(made.get(stock), recipe, stock)
            made[stock] = recipe
    if updates:
        raise ConfigurationError(f"the LoRA tensors of {min(updates)} belong to no weight of the checkpoint")
    return made


def _unwrap(names: Iterable[str]) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """Names without peft's wrapping -> names as published, and each layer's pair of updates."""
    plain: dict[str, str] = {}
    halves: dict[str, dict[str, str]] = {}
    for published in names:
        name = published.replace(_WRAPPER, "", 1)
        if match := _LORA.search(name):
            pair = halves.setdefault(name[: match.start()], {})
            _only_once(pair.get(match[1]), published, name)
            pair[match[1]] = published
        else:
            name = name.replace(".base_layer.", ".", 1)
            _only_once(plain.get(name), published, name)
            plain[name] = published
    for layer, pair in halves.items():
        if len(pair) < len("AB"):
            raise ConfigurationError(f"{layer} has lora_{min(pair)} but not its other half")
    return plain, {layer: (pair["A"], pair["B"]) for layer, pair in halves.items()}


def _only_once(there: Recipe | str | None, other: Recipe | str, name: str) -> None:
    """Two tensors for one place: there is no telling which was trained."""
    if there is not None:
        one, two = (found.source if isinstance(found, Recipe) else found for found in (there, other))
        raise ConfigurationError(f"{one} and {two} are both {name}: only one can be converted")


def _stock(name: str, source: str, update: tuple[str, str] | None) -> dict[str, Recipe]:
    stock = name
    for pattern, replacement in _RENAMES:
        stock = re.sub(pattern, replacement, stock)
    if ".attn.qkv." not in stock:
        return {stock: Recipe(source, update)}
    return {
        stock.replace(".attn.qkv.", f".attention.{part}_proj."): Recipe(source, update, third)
        for third, part in enumerate(_THIRDS)
    }
