"""Read the JSON files of a checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def read_json_object(path: Path, *, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the object in *path*, or *missing* if that is given and the file does not exist.

    Raises ConfigurationError if the file is unreadable or holds another type.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        if missing is not None and isinstance(error, FileNotFoundError):
            return missing
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"invalid {path}: expected a JSON object")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of *pairs*; raises ValueError if a name stands twice, because readers take either value."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice")
    return values
