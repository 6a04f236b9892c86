"""Files that are damaged, missing or of another kind are rejected."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from tests.integration.worker.model.checkpoint.published_checkpoint import PublishedCheckpoint, assert_rejected
from worker.model.checkpoint.convert import convert_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.worker.model.conftest import Parity


def test_truncated_and_damaged_shards_are_rejected(parity: Parity, tmp_path: Path) -> None:
    source = PublishedCheckpoint(parity.checkpoint).write(tmp_path / "published")
    shard = source / "model.safetensors"
    complete = shard.read_bytes()

    shard.write_bytes(complete[: len(complete) // 2])
    assert_rejected(source, tmp_path / "converted", "model.safetensors is truncated or damaged")

    shard.write_bytes(b"\xff" * 16 + complete[16:])
    assert_rejected(source, tmp_path / "converted", "model.safetensors is truncated or damaged")

    shard.write_bytes(complete[:-200] + b"\xff" * 200)
    assert_rejected(source, tmp_path / "converted", "has values that are not finite")


def test_missing_shard_is_reported_by_name(parity: Parity, tmp_path: Path) -> None:
    source = PublishedCheckpoint(parity.checkpoint).write(tmp_path / "published")
    index = {"weight_map": {"mlp1.0.bias": "model-00002-of-00002.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))

    assert_rejected(source, tmp_path / "converted", "model-00002-of-00002.safetensors is missing")


LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "[]", "invalid .*config.json: expected a JSON object"),
        ("config.json", "null", "invalid .*config.json: expected a JSON object"),
        ("tokenizer.model", LFS_POINTER, "tokenizer.model is a Git LFS pointer"),
        ("model.safetensors", LFS_POINTER, "model.safetensors is a Git LFS pointer"),
        ("config.json", "[" * 100_000, "config.json cannot be read"),
        ("tokenizer.model", "\x0f", "tokenizer.model is damaged or not a SentencePiece model"),
        ("tokenizer.model", "", "unsupported tokenizer .*tokenizer.model"),
        ("tokenizer_config.json", "[]", "invalid .*tokenizer_config.json: expected a JSON object"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "list of added tokens"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "q"}}}', "list of added tokens"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"730": {}}}', "list of added tokens"),
        ("tokenizer_config.json", '{"eos_token": {}}', "tokenizer in .* cannot be converted"),
        ("model.safetensors.index.json", '{"weight_map": ["mlp1.0.bias"]}', "index.json: expected a weight_map"),
        ("model.safetensors.index.json", '{"weight_map": null}', "index.json: expected a weight_map"),
        ("model.safetensors.index.json", '{"weight_map": {"mlp1.0.bias": 3}}', "index.json: expected a weight_map"),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"mlp1.0.bias": "/etc/passwd"}}',
            "index.json: expected a weight_map",
        ),
    ],
)
def test_file_with_wrong_contents_is_reported_in_one_line(
    parity: Parity, tmp_path: Path, name: str, content: str, message: str
) -> None:
    source = PublishedCheckpoint(parity.checkpoint).write(tmp_path / "published")
    (source / name).write_text(content)

    assert_rejected(source, tmp_path / "converted", message)


def test_tokenizer_without_image_tokens_is_rejected(parity: Parity, tmp_path: Path) -> None:
    source = PublishedCheckpoint(parity.checkpoint).write(tmp_path / "published")
    for name in ("tokenizer_config.json", "added_tokens.json"):
        (source / name).write_text("{}")

    assert_rejected(source, tmp_path / "converted", "has no token <img>")


def test_index_with_a_wrong_shard_is_rejected(parity: Parity, tmp_path: Path) -> None:
    source = PublishedCheckpoint(parity.checkpoint).write(tmp_path / "published")
    save_file({"surprise": torch.zeros(1)}, source / "other.safetensors")
    index = {"weight_map": {"mlp1.0.bias": "other.safetensors", "mlp1.0.weight": "model.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))

    assert_rejected(
        source, tmp_path / "converted", "mlp1.0.bias is in model.safetensors, but in other.safetensors according to"
    )


def test_shard_missing_in_the_index_is_rejected(parity: Parity, tmp_path: Path) -> None:
    published = PublishedCheckpoint(parity.checkpoint)
    source = published.write(tmp_path / "published")
    index = {"weight_map": dict.fromkeys(published.tensors, "model.safetensors")}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"surprise": torch.zeros(1)}, source / "other.safetensors")

    assert_rejected(source, tmp_path / "converted", "unexpected shard other.safetensors")


def test_values_too_large_for_the_dtype_are_rejected(parity: Parity, tmp_path: Path) -> None:
    published = PublishedCheckpoint(parity.checkpoint)
    published.tensors["mlp1.0.bias"][3] = 1e30
    source = published.write(tmp_path / "published")

    assert_rejected(source, tmp_path / "converted", "too large for float16: choose another --dtype", dtype="float16")
    convert_checkpoint(source, tmp_path / "converted", dtype="bfloat16", trust_unknown=True)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "tokenizer_config.json"])
def test_missing_or_damaged_side_file_is_reported_by_name(parity: Parity, tmp_path: Path, name: str) -> None:
    source = PublishedCheckpoint(parity.checkpoint).write(tmp_path / "published")

    (source / name).write_bytes(b"\x0a\xff{")
    assert_rejected(source, tmp_path / "converted", name)

    (source / name).unlink()
    assert_rejected(source, tmp_path / "converted", name)
