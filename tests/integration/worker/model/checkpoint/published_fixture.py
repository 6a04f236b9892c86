"""A published checkpoint to be changed at will."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    Tensors = dict[str, torch.Tensor]

SIDE_FILES = ("config.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json")


class Publication:
    """A copy of the parity checkpoint in one shard, its parts open to change before `write`."""

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
