"""Read and write safetensors shards one tensor at a time, so that memory use stays near the size of the largest."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Self

import torch
from safetensors import SafetensorError, safe_open

from db.errors import ConfigurationError
from worker.model.checkpoint.json_files import read_json_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

#: Names of the dtypes in a safetensors header (github.com/huggingface/safetensors, "Format").
DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}

#: First bytes of a file that Git LFS has not fetched yet.
LFS_POINTER = b"version https://git-lfs"
INDEX = "model.safetensors.index.json"
#: Elements checked and rounded at a time: a few MB; a copy of the largest tensor would take 2 GB.
PIECE = 2**21

#: Share of a tensor's values that may become zero when they are rounded.
MAX_LOST = 0.01

Shape = tuple[int, ...]


class Source:
    """The tensors of a checkpoint directory, over all its shards.

    `shapes` and `dtypes` (names as in the headers) are by tensor name. A shard is open only while a tensor is read:
    it is memory-mapped, and its pages count as memory of this process. *look* is called with each tensor that is read.
    """

    def __init__(self, directory: Path, look: Callable[[str, torch.Tensor], None] | None = None) -> None:
        self._look = look
        self._shards: dict[str, Path] = {}
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, str] = {}
        self.files = _shard_files(directory)
        for path in self.files:
            self._open(path)
        self._check_index(directory)

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor; raises ConfigurationError if it is unreadable or not finite."""
        try:
            with safe_open(self._shards[name], framework="pt") as shard:
                tensor: torch.Tensor = shard.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ConfigurationError(f"{self._shards[name].name} cannot be read: {error}") from error
        if not all(piece.isfinite().all() for piece in _pieces(tensor)):
            raise ConfigurationError(f"{self._shards[name].name} is damaged: {name} has values that are not finite")
        if self._look is not None:
            self._look(name, tensor)
        return tensor

    def _open(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118 - not a mapping
                    if name in self._shards:
                        raise ConfigurationError(f"{name} is in both {self._shards[name].name} and {path.name}")
                    self._shards[name] = path
                    part = shard.get_slice(name)
                    self.shapes[name], self.dtypes[name] = tuple(part.get_shape()), part.get_dtype()
        except (SafetensorError, OSError) as error:
            reject_lfs_pointer(path)
            raise ConfigurationError(f"{path.name} is truncated or damaged: {error}") from error

    def _check_index(self, directory: Path) -> None:
        for name, file in _index(directory).items():
            if name not in self._shards:
                raise ConfigurationError(f"{name} is in {INDEX} but in no shard")
            if self._shards[name].name != file:
                raise ConfigurationError(f"{name} is in {self._shards[name].name}, but in {file} according to {INDEX}")


def _shard_files(directory: Path) -> list[Path]:
    found = set(directory.glob("*.safetensors"))
    named = {directory / name for name in _index(directory).values()} or found
    if not named:
        raise ConfigurationError(f"no *.safetensors files in {directory}")
    for path in sorted(named):
        if not path.is_file():
            raise ConfigurationError(f"{path.name} is missing: it is listed in {INDEX}")
    if unlisted := found - named:
        # It may or may not belong to the weights.
        raise ConfigurationError(f"unexpected shard {min(unlisted).name}: it is not listed in {INDEX}")
    return sorted(named)


def _index(directory: Path) -> Mapping[str, str]:
    index = read_json_object(directory / INDEX, missing={"weight_map": {}}).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(file, str) and "/" not in file for file in index.values()):
        raise ConfigurationError(f"invalid {directory}/{INDEX}: expected a weight_map from tensor to file name")
    return index


def reject_lfs_pointer(path: Path) -> None:
    """Raise ConfigurationError if *path* is a Git LFS pointer."""
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ConfigurationError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` there")


class ShardWriter:
    """Writes a safetensors file tensor by tensor: its header needs all shapes beforehand, but no tensor.

    safetensors' own writers need all tensors of a file in memory (docs/decisions/checkpoint-conversion.md).
    """

    def __init__(self, path: Path, shapes: Mapping[str, Shape], dtype: torch.dtype) -> None:
        self._expected = list(shapes.items())
        self._dtype = dtype
        self._digest = hashlib.sha256()
        self._file = path.open("xb")
        header = _header(shapes, dtype)
        self._write(len(header).to_bytes(8, "little") + header)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Append the next tensor of the header, rounded to the file's dtype.

        Raises ConfigurationError if a value is too large for the dtype, or many are too small.
        """
        expected, shape = self._expected.pop(0), tuple(tensor.shape)
        if (name, shape) != expected:
            raise ValueError(f"unexpected tensor {name} {shape}: the next one in the header is {expected}")
        lost = 0
        for piece in _pieces(tensor):
            rounded = piece.to(self._dtype)
            lost += int(((rounded == 0) & (piece != 0)).sum())
            if not rounded.isfinite().all():
                dtype = str(self._dtype).removeprefix("torch.")
                raise ConfigurationError(f"{name} has values too large for {dtype}: choose another --dtype")
            self._write(rounded.view(torch.uint8).numpy().data)
        if lost > MAX_LOST * tensor.numel():
            dtype = str(self._dtype).removeprefix("torch.")
            raise ConfigurationError(f"{name} has values too small for {dtype}: choose another --dtype")

    def finish(self) -> str:
        """Flush after the last tensor; return the shard's SHA-256 in hexadecimal."""
        self._file.flush()
        return self._digest.hexdigest()

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
    """Return the size of a tensor in bytes."""
    return torch.Size(shape).numel() * dtype.itemsize
