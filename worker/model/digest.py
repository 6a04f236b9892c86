"""What exactly a checkpoint is: one SHA-256 over its weights, configuration and tokenizer."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

#: Written by the converter beside the checkpoint: where it came from, what was done, the digest of each shard.
RECORD = "prelim.json"

#: Whatever else lies in a directory (a README, a licence) does not change what the model computes.
_DECISIVE = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def checkpoint_digest(directory: Path, *, trust_record: bool = True) -> str:
    """SHA-256 over the names and contents of the files that decide what the model computes, in hexadecimal.

    Reading 80 GB takes a minute or more, so shards of the size that the converter recorded are taken at its word
    unless *trust_record* is off; small files are always read.
    """
    recorded = read_record(directory).get("shards", {}) if trust_record else {}
    digest = hashlib.sha256()
    for path in decisive_files(directory):
        known = recorded.get(path.name, {})
        content = known["sha256"] if known.get("bytes") == path.stat().st_size else file_digest(path)
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def decisive_files(directory: Path) -> list[Path]:
    """The files under the digest, by name."""
    found = {path for pattern in _DECISIVE for path in directory.glob(pattern)}
    return sorted(path for path in found if path.name != RECORD)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_record(directory: Path) -> dict[str, Any]:
    """What the converter left beside the checkpoint; empty for a checkpoint from elsewhere."""
    try:
        record: dict[str, Any] = json.loads((directory / RECORD).read_text())
    except FileNotFoundError:
        return {}
    return record
