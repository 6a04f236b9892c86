"""Map from the tensor names of the stock layout to those of the published layout.

Names are those of sunanhe/MedDr's InternVLChatModel (src/model/internvl_chat) and of transformers' InternVL. The
published language model is still wrapped by peft, its LoRA tensors beside the weights: without them the result would
be the general model before its medical training.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

    from worker.model.checkpoint.shards import Shape, Source

    LookAdapted = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], None]

#: Patterns of published names and their replacements, applied in this order.
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
#: Parts of the vision tower's joint matrix, in this order.
_QKV = "qkv"
#: peft's prefix of a wrapped model, and its LoRA tensors.
_WRAPPER = "base_model.model."
_LORA = re.compile(r"\.lora_([AB])(?:\.default)?\.weight$")


@dataclass(frozen=True, slots=True)
class TensorSource:
    """The published tensors of one stock tensor.

    `name` is the weight; `lora` its tensors A and B, to be merged; `part` the index of the third that is taken of it.
    """

    name: str
    lora: tuple[str, str] | None = None
    part: int | None = None

    def shape(self, source: Source) -> Shape:
        """Return the shape of the result from the headers alone; raises ConfigurationError if the shapes do not fit."""
        shape = source.shapes[self.name]
        if self.part is not None and (not shape or shape[0] % len(_QKV)):
            raise ConfigurationError(f"{self.name} {shape} cannot be split into query, key and value")
        if self.lora is not None:
            down, up = (source.shapes[name] for name in self.lora)
            matrices = all(len(sides) == len(("out", "in")) for sides in (shape, down, up))
            if not matrices or (up[0], down[1], up[1]) != (*shape, down[0]):
                raise ConfigurationError(
                    f"the LoRA tensors {self.lora[0]} {down} and B {up} do not fit {self.name} {shape}"
                )
        return (shape[0] // len(_QKV), *shape[1:]) if self.part is not None else shape

    def load(self, source: Source, lora_scale: float, look: LookAdapted | None = None) -> torch.Tensor:
        """Read and merge the tensor. LoRA is merged in float32, so that the result is rounded once, when written.

        *look* is called with weight, A, B and scale before they are merged.
        """
        tensor = source.read(self.name)
        if self.lora is not None:
            down, up = (source.read(name).float() for name in self.lora)
            if look is not None:
                look(tensor, down, up, lora_scale)
            tensor = tensor.float().addmm_(up, down, alpha=lora_scale)
        return tensor if self.part is None else tensor.chunk(len(_QKV))[self.part]


def key_map(names: Iterable[str]) -> dict[str, TensorSource]:
    """Map stock names to published tensors. Raises ConfigurationError for duplicates and unpaired LoRA tensors."""
    weights, lora = _unwrap(names)
    sources: dict[str, TensorSource] = {}
    for name, published in weights.items():
        pair = lora.pop(name.removesuffix(".weight"), None) if name.endswith(".weight") else None
        for stock, source in _stock(name, published, pair).items():
            if stock in sources:
                raise _duplicate(sources[stock].name, published, stock)
            sources[stock] = source
    if lora:
        raise ConfigurationError(f"the LoRA tensors of {min(lora)} have no weight in the checkpoint")
    return sources


def _unwrap(names: Iterable[str]) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """Return the weights by their names without peft's prefixes, and the LoRA pair of each layer."""
    weights: dict[str, str] = {}
    lora: dict[str, dict[str, str]] = {}
    for published in names:
        name = published.replace(_WRAPPER, "", 1)
        if match := _LORA.search(name):
            group, key = lora.setdefault(name[: match.start()], {}), match[1]
        else:
            # peft adds `base_layer` from 0.7 on.
            name = key = name.replace(".base_layer.", ".", 1)
            group = weights
        if key in group:
            raise _duplicate(group[key], published, name)
        group[key] = published
    for layer, pair in lora.items():
        if len(pair) < len("AB"):
            raise ConfigurationError(f"{layer} has lora_{min(pair)} without its counterpart")
    return weights, {layer: (pair["A"], pair["B"]) for layer, pair in lora.items()}


def _duplicate(one: str, two: str, name: str) -> ConfigurationError:
    return ConfigurationError(f"{one} and {two} both map to {name}: expected one of them")


def _stock(name: str, published: str, lora: tuple[str, str] | None) -> dict[str, TensorSource]:
    stock = name
    for pattern, replacement in _RENAMES:
        stock = re.sub(pattern, replacement, stock)
    if ".attn.qkv." not in stock:
        return {stock: TensorSource(published, lora)}
    return {
        stock.replace(".attn.qkv.", f".attention.{letter}_proj."): TensorSource(published, lora, part)
        for part, letter in enumerate(_QKV)
    }
