"""Command that takes predictions of specialist models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from db.environment import load_settings
from deploy.cli.help_text import Command, Group
from deploy.cli.startup import console

app = typer.Typer(cls=Group, no_args_is_help=True, help="Take predictions of specialist models about studies.")


@app.callback()
def group() -> None:
    """Take predictions of specialist models about studies."""


@app.command("import", cls=Command)
def import_predictions(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines; - reads standard input.")],
) -> None:
    """Store the predictions of a file: {study, name, version, label, score} in each line; all, or none on an error."""
    from db.answers import predictions
    from db.session import transaction
    from deploy.operate.identities import user

    text = sys.stdin.read() if str(file) == "-" else file.read_text()
    found = predictions.of_lines(text.splitlines())
    with transaction(load_settings().database()) as session:
        new = predictions.add(session, found, f"file, by {user()}")
    console.print(f"stored {new} of {len(found)} predictions; the others were stored before")
