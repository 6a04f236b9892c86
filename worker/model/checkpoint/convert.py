"""Convert the published MedDr checkpoint to a directory that the worker loads; done once, shard by shard."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import transformers
from transformers import GenerationConfig

from db.errors import ConfigurationError
from worker.model.chat import IMAGE_TOKENS, image_processor
from worker.model.checkpoint import file_digests
from worker.model.checkpoint.atomic import atomic_directory, remove_partial_directories
from worker.model.checkpoint.file_digests import file_digest
from worker.model.checkpoint.matching import MAX_SHARD_BYTES, Conversion, match_tensors
from worker.model.checkpoint.published import LORA_SCALE, PublishedConfig
from worker.model.checkpoint.recording import SPOKEN, record_checkpoint
from worker.model.checkpoint.sanity.doubts import Doubt, published_doubts, refuse
from worker.model.checkpoint.sanity.publication import unknown_digests, unstated, wrong_digests
from worker.model.checkpoint.sanity.weight_checks import WeightChecks
from worker.model.checkpoint.sentencepiece import convert_tokenizer
from worker.model.checkpoint.shards import INDEX, ShardWriter, Source, tensor_bytes
from worker.model.loading import as_configuration_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from worker.model.checkpoint.manifest import Manifest

#: Disk space needed beside the weights, in bytes: tokenizer and configuration are a few MB.
SIDE_FILE_BYTES = 64 * 2**20

#: Dtypes that can be written.
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class _Plan(NamedTuple):
    """A conversion, its parts beside the weights, and the checks that see each tensor."""

    published: PublishedConfig
    tokenizer: Any
    config: Any
    weights: WeightChecks
    conversion: Conversion


class Converted(NamedTuple):
    """Result of a conversion: the manifest, the doubts that were skipped, the files whose digest is unknown.

    *unstated* are sentences on what no page of the publication states.
    """

    manifest: Manifest
    skipped: list[Doubt]
    unknown: list[str]
    unstated: list[str]


def convert_checkpoint(
    source: Path,
    target: Path,
    *,
    dtype: str = "bfloat16",
    on_bytes: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005 - the protocol's names
    max_shard_bytes: int = MAX_SHARD_BYTES,
    trust_unknown: bool = False,
) -> Converted:
    """Convert the published layout in *source* to a stock layout in *target*, which must not exist.

    *target* appears complete or not at all. *on_bytes* is called with the bytes done and their total: those written,
    then those read again for the digests. Raises ConfigurationError if *source* differs from the published layout or
    the disk space is not enough, before anything is written if possible. Differences from the publication and unlikely
    weights are listed instead with *trust_unknown*.
    """
    _check_target(target, dtype)
    plan = _plan(source, dtype, max_shard_bytes)
    large = plan.conversion.large
    doubts = published_doubts(source, plan.published.values, plan.tokenizer, large=large)
    refuse(doubts, trusted=trust_unknown)
    # First, because a partial directory of a killed run takes the space that this run needs.
    remove_partial_directories(target)
    _check_disk_space(target.parent, plan.conversion.bytes)
    with atomic_directory(target) as directory:
        shards, digests = _write_weights(directory, plan, source, on_bytes)
        doubts += [Doubt(*problem) for problem in plan.weights.problems()]
        doubts += [Doubt("digest", problem) for problem in wrong_digests(digests)]
        refuse(doubts, trusted=trust_unknown)
        skipped = _skipped(doubts, trusted=trust_unknown, large=large)
        manifest = _write_side_files(directory, plan, digests, shards, skipped)
    _remember(target, manifest)
    return Converted(manifest, doubts, unknown_digests(digests), list(unstated(plan.published.values, large=large)))


def _plan(source: Path, dtype: str, max_shard_bytes: int) -> _Plan:
    """Read the publication and match its tensors with those of the model; nothing is written."""
    published = PublishedConfig.read(source)
    with as_configuration_error(f"the tokenizer in {source} cannot be converted"):
        tokenizer = convert_tokenizer(source)
    config = _stock_config(published, tokenizer, dtype)
    weights = WeightChecks()
    conversion = Conversion(Source(source, weights.look), published, DTYPES[dtype], max_shard_bytes)
    match_tensors(conversion, config)
    return _Plan(published, tokenizer, config, weights, conversion)


def _write_weights(
    directory: Path, plan: _Plan, source: Path, on_bytes: Callable[[int, int], None]
) -> tuple[dict[str, str], dict[str, str]]:
    """Write the shards; return the SHA-256 of each, and of the published files."""
    written = plan.conversion.bytes
    sources = sorted([*plan.conversion.source.files, source / "config.json", source / "tokenizer.model"])
    total = written + sum(path.stat().st_size for path in sources)
    shards = _write_shards(directory, plan.conversion, plan.weights, lambda done: on_bytes(done, total))
    return shards, _digests(sources, lambda done: on_bytes(written + done, total))


def _write_side_files(
    directory: Path, plan: _Plan, digests: dict[str, str], shards: dict[str, str], skipped: list[str]
) -> Manifest:
    """Write tokenizer, configuration and manifest."""
    facts = {"converted_from": digests, "prompt_version": "2", **_summary(plan.conversion), "skipped": skipped}
    processor = image_processor(plan.published.image_size)
    for part in (plan.tokenizer, processor, _generation_config(plan.config), plan.config):
        part.save_pretrained(directory)
    return record_checkpoint(directory, facts, shards)


def _remember(target: Path, manifest: Manifest) -> None:
    """Remember the digests of the files, which only in *target* have their final identity."""
    known = {name: entry["sha256"] for name, entry in manifest.files.items()}
    file_digests.remember(target, known, file_digests.identities(target, known))


def _check_target(target: Path, dtype: str) -> None:
    if dtype not in DTYPES:
        raise ConfigurationError(f"unknown dtype {dtype!r}: use one of {', '.join(DTYPES)}")
    if target.exists() or target.is_symlink():
        raise ConfigurationError(f"{target} exists: remove it or choose another destination")


def _skipped(doubts: Sequence[Doubt], *, trusted: bool, large: bool) -> list[str]:
    """Return the names of the checks that the worker skips, too: the spoken one of a model too large to score here."""
    names = [doubt.check for doubt in doubts] + ([SPOKEN] if trusted and large else [])
    return sorted(set(names))


def _stock_config(published: PublishedConfig, tokenizer: Any, dtype: str) -> Any:
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKENS["context_image_token"])
    with as_configuration_error("config.json cannot be converted"):
        config = published.to_stock(image_token_id)
    if len(tokenizer) > config.text_config.vocab_size:
        raise ConfigurationError(
            f"the tokenizer has {len(tokenizer)} tokens, but the model's vocabulary has {config.text_config.vocab_size}"
        )
    config.dtype = dtype
    return config


def _check_disk_space(parent: Path, size: int) -> None:
    existing = next(path for path in (parent.absolute(), *parent.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < size + SIDE_FILE_BYTES:
        raise ConfigurationError(
            f"not enough disk space at {existing}: {free / 1e9:.1f} GB free, "
            f"{(size + SIDE_FILE_BYTES) / 1e9:.1f} GB needed"
        )


def _write_shards(
    directory: Path, conversion: Conversion, weights: WeightChecks, on_bytes: Callable[[int], None]
) -> dict[str, str]:
    """Write the shards and their index; return the SHA-256 of each shard."""
    groups = conversion.shards()
    done = 0
    written: dict[str, str] = {}
    index: dict[str, str] = {}
    for number, names in enumerate(groups, start=1):
        file = "model.safetensors" if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        shapes = {name: conversion.shapes[name] for name in names}
        with ShardWriter(directory / file, shapes, conversion.dtype) as writer:
            for name, shape in shapes.items():
                writer.add(name, conversion.tensors[name].load(conversion.source, LORA_SCALE, weights.look_adapted))
                done += tensor_bytes(shape, conversion.dtype)
                on_bytes(done)
            written[file] = writer.finish()
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


def _summary(conversion: Conversion) -> dict[str, Any]:
    merged = sum(1 for tensor in conversion.tensors.values() if tensor.lora)
    return {
        "dtype": str(conversion.dtype).removeprefix("torch."),
        "pixel_shuffle": conversion.config.pixel_shuffle,
        "lora_tensors_merged": merged,
        "lora_scale": LORA_SCALE if merged else None,
        "transformers": transformers.__version__,
    }


def _generation_config(config: Any) -> Any:
    """Greedy decoding of at least one token until the end of the turn, as in MedDr's `chat`."""
    tokens = {name: getattr(config.text_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return GenerationConfig(**tokens, do_sample=False, min_new_tokens=1)
