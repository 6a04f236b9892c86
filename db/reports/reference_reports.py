"""What a phantom shows, kept for people: files in the data folder, so that no header brings it before a model."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write(data_dir: Path, study_instance_uid: str, report: str) -> None:
    """Keep the true report of a phantom study that is going to be sent."""
    path = _path(data_dir, study_instance_uid)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report, encoding="utf-8")


def read(data_dir: Path, study_instance_uid: str) -> str | None:
    """The true report of a phantom study; None for every other study."""
    try:
        return _path(data_dir, study_instance_uid).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _path(data_dir: Path, study_instance_uid: str) -> Path:
    # The UID comes from a header, where anything can stand: it names no file.
    return data_dir / "demo" / "truth" / f"{hashlib.sha256(study_instance_uid.encode()).hexdigest()}.txt"
