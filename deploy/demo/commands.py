"""What the command line runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.demo.studies import write_demo_studies

if TYPE_CHECKING:
    from pathlib import Path


def phantoms(count: int, seed: int, out: Path) -> int:
    """Write *count* made-up studies with their truth into *out*; returns how many files."""
    return sum(len(study.files) for study in write_demo_studies(out, count=count, seed=seed))
