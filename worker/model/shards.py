"""Safetensors files one tensor at a time: an 80 GB checkpoint passes through the memory of its largest tensor."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from safetensors import SafetensorError, safe_open

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Names of the number formats in a safetensors header (github.com/huggingface/safetensors, "Format").
DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}

Shape = tuple[int, ...]


class Source:
    """The tensors of a checkpoint directory, whatever shards they lie in.

    A shard is open only while a tensor is read and used: it is mapped, and its pages count as this process's memory.
    """

    def __init__(self, directory: Path) -> None:
        self._homes: dict[str, Path] = {}
        self.shapes: dict[str, Shape] = {}
        self.files = _shard_files(directory)
        for path in self.files:
            self._open(path)
        self._check_index(directory)

    def read(self, name: str) -> torch.Tensor:
        """One tensor; ConfigurationError where its numbers are damaged."""
        try:
            with safe_open(self._homes[name], framework="pt") as shard:
                tensor: torch.Tensor = shard.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ConfigurationError(f"{self._homes[name].name} cannot be read any more: {error}") from error
        if not torch.isfinite(tensor).all():
            raise ConfigurationError(f"{self._homes[name].name} is damaged: {name} holds numbers that are not finite")
        return tensor

    def _open(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118 - not a mapping
                    if name in self._homes:
                        raise ConfigurationError(f"{name} lies in both {self._homes[name].name} and {path.name}")
                    self._homes[name] = path
                    self.shapes[name] = tuple(shard.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise ConfigurationError(f"{path.name} is truncated or damaged: {error}") from error

    def _check_index(self, directory: Path) -> None:
        for name in _index(directory):
            if name not in self._homes:
                raise ConfigurationError(f"{name} is in model.safetensors.index.json but in none of the shards")


def _shard_files(directory: Path) -> list[Path]:
    named = {directory / name for name in _index(directory).values()} or set(directory.glob("*.safetensors"))
    if not named:
        raise ConfigurationError(f"{directory} has no *.safetensors files")
    for path in sorted(named):
        if not path.is_file():
            raise ConfigurationError(f"{path.name} is missing, though model.safetensors.index.json names it")
    return sorted(named)


def _index(directory: Path) -> Mapping[str, str]:
    try:
        index: dict[str, str] = json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{directory}/model.safetensors.index.json cannot be read: {error}") from error
    return index


@dataclass(frozen=True, slots=True)
class Written:
    """A finished shard."""

    bytes: int
    sha256: str


class ShardWriter:
    """Writes a safetensors file in the order of its header, which needs every shape but no tensor beforehand."""

    def __init__(self, path: Path, shapes: Mapping[str, Shape], dtype: torch.dtype) -> None:
        self._expected = list(shapes.items())
        self._dtype = dtype
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._file = path.open("xb")
        header = _header(shapes, dtype)
        self._write(len(header).to_bytes(8, "little") + header)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Append the next tensor of the header."""
        expected = self._expected.pop(0)
        if (name, tuple(tensor.shape)) != expected:
            raise ValueError(f"{name} {tuple(tensor.shape)} comes where the header says {expected}")
        flat = tensor.to(self._dtype).contiguous().flatten()
        self._write(flat.view(torch.uint8).numpy().data)

    def finish(self) -> Written:
        """The last tensor is written."""
        self._file.flush()
        return Written(self._bytes, self._digest.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)


def _header(shapes: Mapping[str, Shape], dtype: torch.dtype) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + tensor_bytes(shape, dtype)
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def tensor_bytes(shape: Shape, dtype: torch.dtype) -> int:
    """Size of a tensor."""
    return torch.Size(shape).numel() * dtype.itemsize
