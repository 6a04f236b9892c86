"""Reference reports of phantoms, for readers: files in the data directory, because the model could read a header."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: Relative to the data directory; the name of earlier releases, whose demo studies stay readable.
DIRECTORY = "demo/truth"


def write(data_dir: Path, study_instance_uid: str, report: str) -> None:
    """Store the reference report of a phantom study."""
    path = _path(data_dir, study_instance_uid)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report, encoding="utf-8")


def read(data_dir: Path, study_instance_uid: str) -> str | None:
    """Return the reference report of a phantom study, None for every other study."""
    try:
        return _path(data_dir, study_instance_uid).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _path(data_dir: Path, study_instance_uid: str) -> Path:
    # Hashed: the UID comes from a header and may hold any characters.
    return data_dir / DIRECTORY / f"{hashlib.sha256(study_instance_uid.encode()).hexdigest()}.txt"
