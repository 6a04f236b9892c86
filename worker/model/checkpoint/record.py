"""The record beside a checkpoint's weights: its origin, the conversion, the digest of each shard. Imports no torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from db.errors import ConfigurationError
from worker.model.checkpoint.json_files import read_json_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Not part of the checkpoint's digest: it does not change the model's output.
FILE_NAME = "prelim.json"


def write_record(directory: Path, record: Mapping[str, Any]) -> None:
    """Write *record*, replacing an existing one atomically."""
    partial = directory / f".{FILE_NAME}.new"
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    partial.replace(directory / FILE_NAME)


def read_record(directory: Path) -> dict[str, Any]:
    """Return the record, empty if Prelim did not create the checkpoint. Raises ConfigurationError if it is damaged."""
    try:
        return read_json_object(directory / FILE_NAME, missing={})
    except ConfigurationError as error:
        raise _damaged(directory) from error


def recorded_shards(directory: Path) -> dict[str, dict[str, Any]]:
    """Return file identity and SHA-256 of each shard; empty for a checkpoint that was not converted."""
    shards = read_record(directory).get("shards", {})
    if not isinstance(shards, dict) or not all(
        isinstance(s, dict) and {"bytes", "sha256"} <= s.keys() for s in shards.values()
    ):
        raise _damaged(directory)
    return shards


def is_demo(directory: Path) -> bool:
    """Return whether the checkpoint is recorded as being for phantoms only, never for patients."""
    return bool(read_record(directory).get("demo", False))


def prompt_version(directory: Path) -> str:
    """Return the version of the wording that the checkpoint was trained for.

    Without a record of it: 1 for a demo checkpoint, all of which were trained on that wording before versions were
    recorded; 2 for any other, which was trained on neither, as the published MedDr.
    """
    return str(read_record(directory).get("prompt_version", "1" if is_demo(directory) else "2"))


def _damaged(directory: Path) -> ConfigurationError:
    return ConfigurationError(f"{directory / FILE_NAME} is damaged: convert the checkpoint again")
