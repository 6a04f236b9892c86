"""`prelim index`: the reference index, whose cases reports quote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.help_text import Command, Group
from deploy.cli.startup import console, process_settings

if TYPE_CHECKING:
    from worker.reference_build.importing import Imported

app = typer.Typer(cls=Group, no_args_is_help=True, help="Manage the reference cases that reports quote.")

Cases = Annotated[Path, typer.Argument(help="Folder with cases.jsonl and its DICOM files.")]


Admit = Annotated[
    bool,
    typer.Option("--admit", help="Index cases although report and images disagree, or the report is an own draft."),
]


@app.command("build", cls=Command)
def build(
    folder: Cases,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an index that has more cases.")] = False,
    admit: Admit = False,
) -> None:
    """Index the cases of a folder for the configured checkpoint; measure how well it reads each kind of study."""
    from worker.resident import build_reference

    _print(build_reference(folder, process_settings(), replace=replace, admit=admit), "indexed")


@app.command("add", cls=Command)
def add(
    folder: Cases,
    cases: Annotated[list[str], typer.Argument(help="Names of cases in cases.jsonl.")],
    readmit: Annotated[bool, typer.Option("--readmit", help="Add them although they were removed before.")] = False,
    admit: Admit = False,
) -> None:
    """Add cases of a folder to the index, without building it again."""
    from worker.resident import import_reference

    _print(import_reference(folder, process_settings(), names=cases, readmit=readmit, admit=admit), "added")


@app.command("import", cls=Command)
def import_(
    folder: Cases,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed from the reports.")] = False,
    admit: Admit = False,
) -> None:
    """Add all cases of a folder to the index; show what is removed from their reports."""
    if dry_run:
        from worker.reference_build.importing import removals

        _print_lines("would be removed from", removals(folder))
        return
    from worker.resident import import_reference

    _print(import_reference(folder, process_settings(), admit=admit), "added")


@app.command("remove", cls=Command)
def remove(
    cases: Annotated[list[str] | None, typer.Argument(help="Ids of cases, or their names in cases.jsonl.")] = None,
    patient: Annotated[str, typer.Option(help="Patient ID: erase all cases of this patient.")] = "",
) -> None:
    """Erase cases or a patient: text, vectors, share in the statistics; no import brings them back."""
    from worker.reference_build.erasing import erase

    if not cases and not patient:
        raise typer.BadParameter("expected cases or --patient")
    console.print(f"{erase(process_settings(), cases=cases or (), patient=patient)} cases erased")


@app.command("info", cls=Command)
def info() -> None:
    """Print the current index of each checkpoint: cases, and how well the model reads each kind of study."""
    from deploy.operate import index_info

    index_info.show(process_settings(), console)


@app.command("verify", cls=Command)
def verify() -> None:
    """Verify digests, rows and files of the current index of each checkpoint; exit with status 1 at a fault."""
    from worker.reference_build.erasing import faults

    found = faults(process_settings())
    for line in found:
        console.print(line, highlight=False)
    if found:
        raise typer.Exit(1)
    console.print("no fault found")


def _print(imported: Imported, done: str) -> None:
    _print_lines("removed from", imported.removed)
    for line in imported.excluded:
        console.print(f"left out: {line}", highlight=False, markup=False)
    console.print(f"{imported.indexed} cases {done}")


def _print_lines(what: str, lines: list[str]) -> None:
    for line in lines:
        console.print(f"{what} report {line}", highlight=False, markup=False)
