"""The published MedDr checkpoint -> a directory that the worker loads; done once, shard by shard."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoModelForImageTextToText, GenerationConfig
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from db.errors import ConfigurationError
from worker.model.chat import IMAGE_TOKENS, IMAGENET_MEAN, IMAGENET_STD
from worker.model.checkpoint.atomic import clear_leftovers, whole_or_nothing
from worker.model.checkpoint.digest import RECORD, file_digest
from worker.model.checkpoint.key_map import Recipe, recipes
from worker.model.checkpoint.published import LORA_SCALE, Published
from worker.model.checkpoint.sentencepiece import convert_tokenizer
from worker.model.checkpoint.shards import INDEX, Shape, ShardWriter, Source, tensor_bytes
from worker.model.loading import one_sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

#: Largest shard written, in bytes: what the publication has, and small enough to copy and check one by one.
SHARD_BYTES = 5 * 10**9
#: Room on the disk beyond the weights, in bytes: tokenizer and configuration are a few MB.
MARGIN_BYTES = 64 * 2**20

#: Where a published tensor's name has the number of its layer.
LLM_LAYER = re.compile(r"language_model\..*?\blayers\.(\d{1,9})\.")
VISION_LAYER = re.compile(r"vision_model\..*?\blayers\.(\d{1,9})\.")
#: Number formats of a published tensor, as safetensors calls them.
FORMATS = ("BF16", "F16", "F32", "F64")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(slots=True)
class Conversion:
    """One run: what is read, what it becomes."""

    source: Source
    published: Published
    dtype: torch.dtype
    shard_bytes: int = SHARD_BYTES
    recipes: dict[str, Recipe] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of all weights to write."""
        return sum(tensor_bytes(shape, self.dtype) for shape in self.shapes.values())

    def shards(self) -> list[list[str]]:
        """Stock names in groups of at most `shard_bytes`, in the order of the model."""
        groups: list[list[str]] = [[]]
        room = self.shard_bytes
        for name, shape in self.shapes.items():
            size = tensor_bytes(shape, self.dtype)
            if size > room and groups[-1]:
                groups.append([])
                room = self.shard_bytes
            groups[-1].append(name)
            room -= size
        return groups


def convert_checkpoint(
    source: Path,
    target: Path,
    *,
    dtype: str = "bfloat16",
    on_bytes: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005 - the protocol's names
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Convert the published layout in *source* to a stock one in *target*, which must not exist.

    *target* appears whole or not at all. *on_bytes* is told the bytes done and their total: first those written, then
    those read once more for their digests. Raises
    ConfigurationError, before anything is written wherever that can be known, where *source* is not exactly what is
    expected or *target* has no room.
    """
    if dtype not in DTYPES:
        raise ConfigurationError(f"unknown dtype {dtype!r}: use one of {', '.join(DTYPES)}")
    if target.exists() or target.is_symlink():
        raise ConfigurationError(f"{target} exists already: remove it, or choose another destination")
    published = Published.read(source)
    with one_sentence(f"the tokenizer in {source} cannot be converted"):
        tokenizer = convert_tokenizer(source)
    config = _stock_config(published, tokenizer, dtype)
    conversion = Conversion(Source(source), published, DTYPES[dtype], shard_bytes)
    _plan(conversion, config)
    # First: what a killed run left takes the very room that this one needs.
    clear_leftovers(target)
    _check_room(target.parent, conversion.bytes)
    with whole_or_nothing(target) as directory:
        sources = sorted([*conversion.source.files, source / "config.json", source / "tokenizer.model"])
        total = conversion.bytes + sum(path.stat().st_size for path in sources)
        shards = _write_shards(directory, conversion, lambda done: on_bytes(done, total))
        digests = _digests(sources, lambda done: on_bytes(conversion.bytes + done, total))
        record = {"converted_from": digests, **_what_was_done(conversion), "shards": shards}
        tokenizer.save_pretrained(directory)
        _image_processor(published).save_pretrained(directory)
        _generation_config(config).save_pretrained(directory)
        (directory / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        config.save_pretrained(directory)


def _stock_config(published: Published, tokenizer: Any, dtype: str) -> Any:
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKENS["context_image_token"])
    with one_sentence("config.json cannot be converted"):
        config = published.stock(image_token_id)
    if len(tokenizer) > config.text_config.vocab_size:
        raise ConfigurationError(
            f"the tokenizer has {len(tokenizer)} tokens, the model knows {config.text_config.vocab_size}"
        )
    config.dtype = dtype
    return config


def _plan(conversion: Conversion, config: Any) -> None:
    """Match the published tensors with those the model needs; everything must fit exactly."""
    _check_layers(conversion)
    with one_sentence("config.json describes no model that can be built"), torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    config.architectures = [type(model).__name__]
    needed = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        needed.pop("lm_head.weight")
    _check_formats(conversion.source)
    found = recipes(conversion.source.shapes)
    made = {name: recipe.shape(conversion.source) for name, recipe in found.items()}
    if unknown := found.keys() - needed.keys():
        raise ConfigurationError(f"{_several(unknown, found)} of the checkpoint is unknown to the MedDr layout")
    if missing := needed.keys() - found.keys():
        raise ConfigurationError(f"{_several(missing)} is missing from the checkpoint")
    _check_lora(conversion, found)
    for name, shape in needed.items():
        if made[name] != shape:
            raise ConfigurationError(f"{found[name].source} gives {made[name]} where config.json asks for {shape}")
    conversion.recipes, conversion.shapes = found, needed


def _check_layers(conversion: Conversion) -> None:
    """Before the model is built: one of far too many layers would not come to an end."""
    for part, pattern in (("llm_config", LLM_LAYER), ("vision_config", VISION_LAYER)):
        said = conversion.published.layers(part)
        numbers = [int(found[1]) for name in conversion.source.shapes if (found := pattern.search(name))]
        last = max(numbers, default=-1)
        if said != last + 1:
            raise ConfigurationError(
                f"config.json says {part}.num_hidden_layers = {said}, but the checkpoint has {last + 1} layers"
            )


def _check_formats(source: Source) -> None:
    for name, kind in source.formats.items():
        if kind not in FORMATS:
            raise ConfigurationError(f"{name} holds {kind} numbers, but only {', '.join(FORMATS)} can be converted")


def _several(names: set[str], found: Mapping[str, Recipe] | None = None) -> str:
    first = min(names)
    shown = found[first].source if found else first
    return shown if len(names) == 1 else f"{shown} (the first of {len(names)})"


def _check_lora(conversion: Conversion, found: Mapping[str, Recipe]) -> None:
    """Updates must be there, at the rank that config.json says, exactly where it says so."""
    for part, prefix in (("llm", "language_model."), ("backbone", "vision_model.")):
        expected = conversion.published.lora_rank(part)
        # wrap_llm_lora and wrap_backbone_lora give one to every linear layer of their transformer.
        layers = [r for r in found.values() if r.source.startswith(prefix) and _is_linear(r, conversion.source)]
        ranks = {conversion.source.shapes[r.update[0]][0] if r.update else 0 for r in layers}
        if ranks != {expected}:
            raise ConfigurationError(
                f"config.json says use_{part}_lora = {expected}, but the checkpoint's layers have LoRA tensors of rank "
                f"{' and '.join(map(str, sorted(ranks)))} (0: none)"
            )


def _is_linear(recipe: Recipe, source: Source) -> bool:
    return ".layers." in recipe.source and len(source.shapes[recipe.source]) == len(("out", "in"))


def _check_room(parent: Path, size: int) -> None:
    existing = next(path for path in (parent.absolute(), *parent.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < size + MARGIN_BYTES:
        raise ConfigurationError(
            f"{existing} has {free / 1e9:.1f} GB free, the converted checkpoint needs {(size + MARGIN_BYTES) / 1e9:.1f}"
        )


def _write_shards(
    directory: Path, conversion: Conversion, on_bytes: Callable[[int], None]
) -> dict[str, dict[str, Any]]:
    groups = conversion.shards()
    done = 0
    written: dict[str, dict[str, Any]] = {}
    index: dict[str, str] = {}
    for number, names in enumerate(groups, start=1):
        file = "model.safetensors" if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        shapes = {name: conversion.shapes[name] for name in names}
        with ShardWriter(directory / file, shapes, conversion.dtype) as writer:
            for name, shape in shapes.items():
                writer.add(name, conversion.recipes[name].make(conversion.source, LORA_SCALE))
                done += tensor_bytes(shape, conversion.dtype)
                on_bytes(done)
            shard = writer.finish()
        written[file] = {**shard.identity, "sha256": shard.sha256}
        index |= dict.fromkeys(names, file)
    if len(groups) > 1:
        content = {"metadata": {"total_size": conversion.bytes}, "weight_map": index}
        (directory / INDEX).write_text(json.dumps(content, indent=2) + "\n")
    return written


def _digests(paths: Iterable[Path], on_bytes: Callable[[int], None]) -> dict[str, str]:
    digests: dict[str, str] = {}
    done = 0
    for path in paths:
        digests[path.name] = file_digest(path)
        done += path.stat().st_size
        on_bytes(done)
    return digests


def _what_was_done(conversion: Conversion) -> dict[str, Any]:
    merged = sum(1 for recipe in conversion.recipes.values() if recipe.update)
    return {
        "dtype": str(conversion.dtype).removeprefix("torch."),
        "pixel_shuffle": conversion.published.shuffle,
        "lora_tensors_merged": merged,
        "lora_scale": LORA_SCALE if merged else None,
        "transformers": transformers.__version__,
    }


def _image_processor(published: Published) -> Any:
    size = {"height": published.image_size, "width": published.image_size}
    return GotOcr2ImageProcessorPil(size=size, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD, crop_to_patches=False)


def _generation_config(config: Any) -> Any:
    """Greedy, at least one token, and only the end of the turn stops it, as in MedDr's `chat`."""
    text = config.text_config
    return GenerationConfig(
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        do_sample=False,
        min_new_tokens=1,
    )
