"""SHA-256 digest of a checkpoint: weights, configuration and tokenizer. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from db.errors import ConfigurationError
from worker.model.checkpoint.record import FILE_NAME, read_record, recorded_shards, write_record

if TYPE_CHECKING:
    from pathlib import Path

#: Files that determine the model's output; others (a README, a licence) do not.
_DIGESTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def checkpoint_digest(directory: Path) -> str:
    """Return the hexadecimal SHA-256 over names and contents of the files that determine the model's output.

    Reading 80 GB takes a minute or more, so the recorded digest is used for shards that are unchanged since it was
    recorded (size, modification time, inode); `check_shards` reads them. All other files are always read.
    """
    recorded = recorded_shards(directory)
    digest = hashlib.sha256()
    found = {path for pattern in _DIGESTED for path in directory.glob(pattern)} - {directory / FILE_NAME}
    for path in sorted(found):
        shard = recorded.get(path.name, {})
        unchanged = file_identity(path).items() <= shard.items()
        content = shard["sha256"] if unchanged else file_digest(path)
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def check_shards(directory: Path) -> None:
    """Read all shards that the conversion recorded; raises ConfigurationError if one has changed.

    Shards that were copied or moved would be read at every start: their new identity is recorded.
    """
    recorded = recorded_shards(directory)
    for name, shard in recorded.items():
        path = directory / name
        if not path.is_file() or file_digest(path) != shard["sha256"]:
            raise ConfigurationError(f"{path} has changed since the conversion: convert the checkpoint again")
    found = {name: {**file_identity(directory / name), "sha256": s["sha256"]} for name, s in recorded.items()}
    if found != recorded and os.access(directory, os.W_OK):
        write_record(directory, read_record(directory) | {"shards": found})


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_identity(path: Path) -> dict[str, int]:
    """Return values that change when a file is written or replaced."""
    found = path.stat()
    return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "inode": found.st_ino}
