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
    from collections.abc import Iterable, Mapping
    from pathlib import Path

#: Names of the number formats in a safetensors header (github.com/huggingface/safetensors, "Format").
DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}

#: What a file begins with that Git LFS has not fetched yet.
LFS_POINTER = b"version https://git-lfs"
INDEX = "model.safetensors.index.json"
#: Numbers looked at and rounded at a time: a few MB, where a copy of the largest tensor would take 2 GB.
PIECE = 2**21

Shape = tuple[int, ...]


class Source:
    """The tensors of a checkpoint directory, whatever shards they lie in.

    A shard is open only while a tensor is read and used: it is mapped, and its pages count as this process's memory.
    """

    def __init__(self, directory: Path) -> None:
        self._homes: dict[str, Path] = {}
        self.shapes: dict[str, Shape] = {}
        #: Number formats, by their names in the headers.
        self.formats: dict[str, str] = {}
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
        if not all(piece.isfinite().all() for piece in _pieces(tensor)):
            raise ConfigurationError(f"{self._homes[name].name} is damaged: {name} holds numbers that are not finite")
        return tensor

    def _open(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118 - not a mapping
                    if name in self._homes:
                        raise ConfigurationError(f"{name} lies in both {self._homes[name].name} and {path.name}")
                    self._homes[name] = path
                    part = shard.get_slice(name)
                    self.shapes[name], self.formats[name] = tuple(part.get_shape()), part.get_dtype()
        except (SafetensorError, OSError) as error:
            refuse_lfs_pointer(path)
            raise ConfigurationError(f"{path.name} is truncated or damaged: {error}") from error

    def _check_index(self, directory: Path) -> None:
        for name, file in _index(directory).items():
            if name not in self._homes:
                raise ConfigurationError(f"{name} is in {INDEX} but in none of the shards")
            if self._homes[name].name != file:
                raise ConfigurationError(f"{name} lies in {self._homes[name].name}, but {INDEX} says in {file}")


def _shard_files(directory: Path) -> list[Path]:
    there = set(directory.glob("*.safetensors"))
    named = {directory / name for name in _index(directory).values()} or there
    if not named:
        raise ConfigurationError(f"{directory} has no *.safetensors files")
    for path in sorted(named):
        if not path.is_file():
            raise ConfigurationError(f"{path.name} is missing, though {INDEX} names it")
    if unnamed := there - named:
        # There is no telling whether it belongs to the weights.
        raise ConfigurationError(f"{min(unnamed).name} lies among the shards, but {INDEX} does not name it")
    return sorted(named)


def _index(directory: Path) -> Mapping[str, str]:
    try:
        index = json.loads((directory / INDEX).read_text())["weight_map"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigurationError(f"{directory}/{INDEX} cannot be read: {error}") from error
    if not isinstance(index, dict) or not all(isinstance(file, str) and "/" not in file for file in index.values()):
        raise ConfigurationError(f"{directory}/{INDEX} cannot be read: its weight_map does not give each tensor a file")
    return index


def refuse_lfs_pointer(path: Path) -> None:
    """Raise ConfigurationError where *path* only stands for a file that is still to be fetched."""
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ConfigurationError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` there")


@dataclass(frozen=True, slots=True)
class Written:
    """A finished shard."""

    sha256: str
    identity: dict[str, int]


def identity(path: Path) -> dict[str, int]:
    """What changes when somebody writes to a file or puts another in its place."""
    found = path.stat()
    return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "inode": found.st_ino}


class ShardWriter:
    """Writes a safetensors file in the order of its header, which needs every shape but no tensor beforehand."""

    def __init__(self, path: Path, shapes: Mapping[str, Shape], dtype: torch.dtype) -> None:
        self._expected = list(shapes.items())
        self._dtype = dtype
        self._digest = hashlib.sha256()
        self._path = path
        self._file = path.open("xb")
        header = _header(shapes, dtype)
        self._write(len(header).to_bytes(8, "little") + header)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Append the next tensor of the header."""
        expected = self._expected.pop(0)
        if (name, tuple(tensor.shape)) != expected:
            raise ValueError(f"{name} {tuple(tensor.shape)} comes where the header says {expected}")
        for piece in _pieces(tensor):
            rounded = piece.to(self._dtype)
            if not rounded.isfinite().all():
                kind = str(self._dtype).removeprefix("torch.")
                raise ConfigurationError(f"{name} holds numbers too large for {kind}: choose another --dtype")
            self._write(rounded.view(torch.uint8).numpy().data)

    def finish(self) -> Written:
        """The last tensor is written."""
        self._file.flush()
        return Written(self._digest.hexdigest(), identity(self._path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)


def _pieces(tensor: torch.Tensor) -> Iterable[torch.Tensor]:
    flat = tensor.reshape(-1)
    return (flat[start : start + PIECE] for start in range(0, flat.numel(), PIECE))


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
