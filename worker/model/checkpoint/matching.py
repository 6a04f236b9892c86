"""Match the tensors of the published MedDr checkpoint with those of the model that is written."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForImageTextToText

from db.errors import ConfigurationError
from worker.model.checkpoint.key_map import TensorSource, key_map
from worker.model.checkpoint.recording import MIN_PATIENT_PARAMETERS
from worker.model.checkpoint.shards import Shape, Source, tensor_bytes
from worker.model.loading import as_configuration_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.model.checkpoint.published import PublishedConfig

#: Names of published tensors that contain the index of their layer.
LLM_LAYER = re.compile(r"language_model\..*?\blayers\.(\d{1,9})\.")
VISION_LAYER = re.compile(r"vision_model\..*?\blayers\.(\d{1,9})\.")
#: Supported dtypes of published tensors, by their safetensors names.
SOURCE_DTYPES = ("BF16", "F16", "F32", "F64")
#: Largest shard written, in bytes: as in the publication, and small enough to copy and check one by one.
MAX_SHARD_BYTES = 5 * 10**9


@dataclass(slots=True)
class Conversion:
    """Input and plan of one conversion: `tensors` and `shapes` are by stock name."""

    source: Source
    config: PublishedConfig
    dtype: torch.dtype
    max_shard_bytes: int = MAX_SHARD_BYTES
    tensors: dict[str, TensorSource] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)

    @property
    def large(self) -> bool:
        """True if it could be a model for patients."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values()) >= MIN_PATIENT_PARAMETERS

    @property
    def bytes(self) -> int:
        """Size of all weights to be written."""
        return sum(tensor_bytes(shape, self.dtype) for shape in self.shapes.values())

    def shards(self) -> list[list[str]]:
        """Group the stock names into shards of at most `max_shard_bytes`, in the order of the model."""
        groups: list[list[str]] = [[]]
        room = self.max_shard_bytes
        for name, shape in self.shapes.items():
            size = tensor_bytes(shape, self.dtype)
            if size > room and groups[-1]:
                groups.append([])
                room = self.max_shard_bytes
            groups[-1].append(name)
            room -= size
        return groups


def match_tensors(conversion: Conversion, config: Any) -> None:
    """Match the published tensors with those of the model; names and shapes must fit exactly."""
    _check_layers(conversion)
    with as_configuration_error("no model can be built from config.json"), torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    config.architectures = [type(model).__name__]
    needed = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        needed.pop("lm_head.weight")
    _check_dtypes(conversion.source)
    found = key_map(conversion.source.shapes)
    shapes = {name: tensor.shape(conversion.source) for name, tensor in found.items()}
    if unknown := found.keys() - needed.keys():
        published = {found[name].name for name in unknown}
        raise ConfigurationError(f"{_first_of(published)} of the checkpoint is not part of the MedDr layout")
    if missing := needed.keys() - found.keys():
        raise ConfigurationError(f"{_first_of(missing)} is missing from the checkpoint")
    _check_lora(conversion, found)
    for name, shape in needed.items():
        if shapes[name] != shape:
            raise ConfigurationError(
                f"{found[name].name} has the shape {shapes[name]}, but config.json requires {shape}"
            )
    conversion.tensors, conversion.shapes = found, needed


def _check_layers(conversion: Conversion) -> None:
    """Compare the numbers of layers before the model is built: building 10^9 layers would never end."""
    for part, pattern in (("llm_config", LLM_LAYER), ("vision_config", VISION_LAYER)):
        expected = conversion.config.num_layers(part)
        indices = [int(found[1]) for name in conversion.source.shapes if (found := pattern.search(name))]
        found_layers = max(indices, default=-1) + 1
        if expected != found_layers:
            raise ConfigurationError(
                f"{part}.num_hidden_layers = {expected} in config.json, but the checkpoint has {found_layers} layers"
            )


def _check_dtypes(source: Source) -> None:
    for name, dtype in source.dtypes.items():
        if dtype not in SOURCE_DTYPES:
            raise ConfigurationError(
                f"unsupported dtype {dtype} of {name}: only {', '.join(SOURCE_DTYPES)} can be converted"
            )


def _first_of(names: set[str]) -> str:
    return min(names) if len(names) == 1 else f"{min(names)} (the first of {len(names)})"


def _check_lora(conversion: Conversion, found: Mapping[str, TensorSource]) -> None:
    """Require LoRA tensors of the rank in config.json in exactly the layers that should have them."""
    for tensor in found.values():
        if tensor.lora and not _is_linear(tensor, conversion.source):
            raise ConfigurationError(f"{tensor.lora[0]} adapts {tensor.name}, which the original's LoRA never wraps")
    for part, prefix in (("llm", "language_model."), ("backbone", "vision_model.")):
        expected = conversion.config.lora_rank(part)
        # wrap_llm_lora and wrap_backbone_lora wrap every linear layer of their transformer.
        layers = [t for t in found.values() if t.name.startswith(prefix) and _is_linear(t, conversion.source)]
        ranks = {conversion.source.shapes[t.lora[0]][0] if t.lora else 0 for t in layers}
        if ranks != {expected}:
            raise ConfigurationError(
                f"use_{part}_lora = {expected} in config.json, but the checkpoint's layers have LoRA tensors of rank "
                f"{' and '.join(map(str, sorted(ranks)))} (0: none)"
            )


def _is_linear(tensor: TensorSource, source: Source) -> bool:
    return ".layers." in tensor.name and len(source.shapes[tensor.name]) == len(("out", "in"))
