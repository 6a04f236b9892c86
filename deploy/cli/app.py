"""The `prelim` command: its groups, and errors as one line; each command imports only its own process."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer
from rich.console import Console
from sqlalchemy.exc import OperationalError

from db.errors import PrelimError
from deploy.cli import dicom, model, operate, run

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Receive radiology studies by DICOM and write preliminary reports.",
)
for commands in (run.app, dicom.app, operate.app, model.app):
    app.add_typer(commands)
app.add_typer(operate.key_app, name="key", rich_help_panel=operate.PANEL)
app.add_typer(model.checkpoint_app, name="checkpoint", rich_help_panel=model.PANEL)
app.add_typer(model.reference_app, name="reference", rich_help_panel=model.PANEL)


def main() -> None:
    """Run a command; print an expected error as one line on standard error and exit with status 2."""
    # Files below the data folder are for their owner only.
    os.umask(0o077)
    try:
        app()
    except PrelimError as error:
        _fail(str(error))
    except OperationalError as error:
        # The driver's message names the address and the cause, and no row.
        _fail(f"database unreachable: {error.orig}".strip())
    except OSError as error:
        _fail(f"{error.filename or 'operating system'}: {error.strerror or error}")


def _fail(problem: str) -> NoReturn:
    Console(stderr=True, markup=False, highlight=False).print(f"error: {problem}", soft_wrap=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
