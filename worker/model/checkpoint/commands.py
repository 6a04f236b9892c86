"""Commands of `prelim checkpoint`; each prints its result or raises ConfigurationError."""

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
from worker.model.checkpoint.manifest import check_files, read_manifest
from worker.model.checkpoint.random_weights import write_random_checkpoint
from worker.model.checkpoint.recording import record_existing
from worker.model.engine.request import Request
from worker.model.loading import check_layout
from worker.model.resident_model import ResidentModel

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from worker.model.checkpoint.manifest import Manifest
    from worker.model.checkpoint.sanity.doubts import Doubt

console = Console()

#: Request that `verify` runs.
TEST_REQUEST = Request("Describe the image.", [np.full((448, 448, 3), 127, np.uint8)], max_new_tokens=8)
#: Printed for every checkpoint: docs/model.md has the figures.
NOT_SEEN = (
    "not checked: whether it reads images. A vision tower or projector with wrong weights of the usual size passes all"
    " checks: before use, compare its reports of known studies with the signed ones (`prelim evaluate`)"
)


def convert(src: Path, dst: Path, dtype: str = "bfloat16", *, trust_unknown: bool = False) -> None:
    """Convert the published MedDr layout in *src* to *dst*, which the worker loads; print what could not be checked."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("convert", total=None)
        converted = convert_checkpoint(
            src,
            dst,
            dtype=dtype,
            on_bytes=lambda done, total: progress.update(bar, completed=done, total=total),
            trust_unknown=trust_unknown,
        )
    _print_skipped(converted.skipped)
    if converted.unknown:
        console.print(f"unknown: no public SHA-256 of {len(converted.unknown)} files", highlight=False, markup=False)
    for sentence in converted.unstated:
        console.print(f"not judged: {sentence}", highlight=False, markup=False)
    _print_recorded(dst, converted.manifest)


def info(directory: Path) -> None:
    """Print the sizes of a checkpoint and the memory it needs."""
    size = sizing.measure(directory)
    table = Table(show_header=False, title=str(directory))
    for name, value in size.rows(load_settings().model.context_tokens):
        table.add_row(name, value)
    console.print(table, highlight=False)


def verify(directory: Path) -> None:
    """Compare all files with the manifest, load the checkpoint, score its sentences and generate a few tokens."""
    check_layout(directory)
    manifest = read_manifest(directory)
    check_files(directory, manifest, everything=True)
    model = ResidentModel.load(directory, slots=1)
    try:
        answer = model.submit(TEST_REQUEST).result()
    except Outcome as error:
        raise ConfigurationError(f"{directory} cannot generate text: {error.detail}") from error
    finally:
        model.close()
    console.print(f"{directory} works: {len(answer.token_ids)} tokens in {answer.timings.total:.1f} s", highlight=False)
    _print_unchecked(manifest)
    console.print(f"digest {model.digest}", highlight=False)


def record(directory: Path, *, trust_unknown: bool = False) -> None:
    """Write the manifest of a checkpoint that has none; print what could not be checked."""
    manifest, skipped = record_existing(directory, trust_unknown=trust_unknown)
    _print_skipped(skipped)
    _print_recorded(directory, manifest)


def _print_skipped(doubts: Iterable[Doubt]) -> None:
    for doubt in doubts:
        console.print(f"skipped: {doubt.check}: {doubt.problem}", highlight=False, markup=False)


def _print_unchecked(manifest: Manifest) -> None:
    if manifest.skipped:
        names = ", ".join(manifest.skipped)
        console.print(f"checks skipped with --trust-unknown: {names}", highlight=False, markup=False)
    console.print(NOT_SEEN, highlight=False, markup=False)


def _print_recorded(directory: Path, manifest: Manifest) -> None:
    use = "phantoms only, never patients" if manifest.demo else "patients"
    console.print(f"{directory}: {len(manifest.files)} files, for {use}", highlight=False, markup=False)
    _print_unchecked(manifest)
    console.print(f"digest {manifest.digest}", highlight=False)


def random(directory: Path, seed: int = 0) -> None:
    """Create a tiny random-weight checkpoint for smoke tests."""
    write_random_checkpoint(directory, seed=seed)
    console.print(f"created a random-weight checkpoint in {directory}: its reports have no meaning", highlight=False)
