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
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        if missing is not None and isinstance(error, FileNotFoundError):
            return missing
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"invalid {path}: expected a JSON object")
    return values
