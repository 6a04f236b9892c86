"""A tiny checkpoint in the published layout, to be changed by a test, and its conversion."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

from db.errors import ConfigurationError
from worker.model.checkpoint.convert import convert_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    Tensors = dict[str, torch.Tensor]
    Change = Callable[["PublishedCheckpoint"], object]

LAYER = "language_model.base_model.model.model.layers.0"
QUERY = f"{LAYER}.self_attn.q_proj"
SIDE_FILES = ("config.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json")


class PublishedCheckpoint:
    """A copy of the parity checkpoint in one shard; its parts may be changed before `write`."""

    def __init__(self, original: Path) -> None:
        self.original = original
        self.config: dict[str, Any] = json.loads((original / "config.json").read_text())
        self.tensors: Tensors = {}
        for shard in sorted(original.glob("*.safetensors")):
            self.tensors |= load_file(shard)

    def rename(self, new_name: Callable[[str], str]) -> None:
        self.tensors = {new_name(name): tensor for name, tensor in self.tensors.items()}

    def write(self, directory: Path) -> Path:
        directory.mkdir()
        for name in SIDE_FILES[1:]:
            shutil.copy(self.original / name, directory)
        (directory / "config.json").write_text(json.dumps(self.config))
        save_file(self.tensors, directory / "model.safetensors")
        return directory


def weights(directory: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = {}
    for shard in directory.glob("*.safetensors"):
        loaded |= load_file(shard)
    return loaded


def assert_rejected(source: Path, target: Path, message: str, **options: Any) -> None:
    """Assert that the conversion fails with *message* in one line and leaves nothing."""
    before = set(target.parent.iterdir())
    with pytest.raises(ConfigurationError, match=message) as raised:
        convert_checkpoint(source, target, **options)
    assert "\n" not in str(raised.value)
    assert set(target.parent.iterdir()) == before
