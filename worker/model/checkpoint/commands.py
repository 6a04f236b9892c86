"""`prelim checkpoint ...`, as functions that print; each raises ConfigurationError with one sentence to show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from db.environment import load_settings
from db.errors import ConfigurationError, Outcome
from worker.model.checkpoint import sizing
from worker.model.checkpoint.convert import convert_checkpoint
from worker.model.checkpoint.digest import check_shards
from worker.model.checkpoint.random_weights import write_random_checkpoint
from worker.model.engine.request import Request
from worker.model.resident_model import ResidentModel

if TYPE_CHECKING:
    from pathlib import Path

console = Console()

#: Question and length of the trial that `verify` runs.
TRIAL = Request("Describe the image.", [np.full((448, 448, 3), 127, np.uint8)], max_new_tokens=8)


def convert(src: Path, dst: Path, dtype: str = "bfloat16") -> None:
    """Turn the published MedDr layout in *src* into *dst*, which the worker loads."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("convert", total=None)
        convert_checkpoint(
            src, dst, dtype=dtype, on_bytes=lambda done, total: progress.update(bar, completed=done, total=total)
        )
    console.print(f"converted {src} to {dst}", highlight=False)


def info(directory: Path) -> None:
    """Print what the checkpoint is and what it takes to run it."""
    facts = sizing.measure(directory)
    table = Table(show_header=False, title=str(directory))
    for name, value in facts.lines(load_settings().model.context_tokens):
        table.add_row(name, value)
    console.print(table, highlight=False)


def verify(directory: Path) -> None:
    """Read every byte against the digests of the conversion, load the checkpoint and let it write a few tokens."""
    check_shards(directory)
    model = ResidentModel.load(directory, slots=1)
    try:
        answer = model.submit(TRIAL).result()
    except Outcome as error:
        raise ConfigurationError(f"{directory} does not work: {error.detail}") from error
    finally:
        model.close()
    console.print(f"{directory} works: {len(answer.token_ids)} tokens in {answer.timings.total:.1f} s", highlight=False)
    console.print(f"digest {model.digest}", highlight=False)


def random(directory: Path, seed: int = 0) -> None:
    """Write a tiny checkpoint of random weights to *directory*."""
    write_random_checkpoint(directory, seed=seed)
    console.print(f"wrote a random checkpoint to {directory}: its reports mean nothing", highlight=False)
