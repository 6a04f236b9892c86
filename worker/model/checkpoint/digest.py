"""What exactly a checkpoint is: one SHA-256 over its weights, configuration and tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from db.errors import ConfigurationError
from worker.model.checkpoint.shards import identity

if TYPE_CHECKING:
    from pathlib import Path

#: Beside the checkpoint: where it came from, what was done, and as far as known the digest of each shard.
RECORD = "prelim.json"

#: Whatever else lies in a directory (a README, a licence) does not change what the model computes.
_DECISIVE = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def checkpoint_digest(directory: Path) -> str:
    """SHA-256 over the names and contents of the files that decide what the model computes, in hexadecimal.

    Reading 80 GB takes a minute or more, so shards that nobody touched since they were recorded (size, time of change,
    inode) are taken at that word; `check_shards` reads them. All others are always read.
    """
    recorded = _recorded_shards(directory)
    digest = hashlib.sha256()
    for path in decisive_files(directory):
        known = recorded.get(path.name, {})
        untouched = identity(path).items() <= known.items()
        content = known["sha256"] if untouched else file_digest(path)
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def check_shards(directory: Path) -> None:
    """Read every shard that the converter recorded; ConfigurationError where one is not as it was written.

    Shards that were copied or moved, and so would be read at every start, are recorded anew.
    """
    shards = _recorded_shards(directory)
    for name, recorded in shards.items():
        path = directory / name
        if not path.is_file() or file_digest(path) != recorded["sha256"]:
            raise ConfigurationError(f"{path} is not what was converted: convert the checkpoint again")
    found = {name: {**identity(directory / name), "sha256": shard["sha256"]} for name, shard in shards.items()}
    if found != shards and os.access(directory, os.W_OK):
        fresh = directory / f".{RECORD}.new"
        fresh.write_text(json.dumps(_record(directory) | {"shards": found}, indent=2) + "\n")
        fresh.replace(directory / RECORD)


def decisive_files(directory: Path) -> list[Path]:
    """The files under the digest, by name."""
    found = {path for pattern in _DECISIVE for path in directory.glob(pattern)}
    return sorted(path for path in found if path.name != RECORD)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_demo(directory: Path) -> bool:
    """Whether the checkpoint's record says that it is for phantoms only, never for patients."""
    return bool(_record(directory).get("demo", False))


def _recorded_shards(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and digest of each shard; none for a checkpoint from elsewhere."""
    shards = _record(directory).get("shards", {})
    if not isinstance(shards, dict) or not all(
        isinstance(s, dict) and {"bytes", "sha256"} <= s.keys() for s in shards.values()
    ):
        raise _unreadable(directory)
    return shards


def _record(directory: Path) -> dict[str, Any]:
    """What was written down when the checkpoint was made; nothing for one from elsewhere."""
    try:
        record = json.loads((directory / RECORD).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(directory) from error
    if not isinstance(record, dict):
        raise _unreadable(directory)
    return record


def _unreadable(directory: Path) -> ConfigurationError:
    return ConfigurationError(f"{directory / RECORD} cannot be read: convert the checkpoint again")
