"""`prelim checkpoint ...`, as functions that print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from worker.model.random_checkpoint import write_random_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

console = Console()


def random(directory: Path, seed: int = 0) -> None:
    """Write a tiny checkpoint of random weights to *directory*."""
    write_random_checkpoint(directory, seed=seed)
    console.print(f"wrote a random checkpoint to {directory}: its reports mean nothing", highlight=False)
