"""Commands for the audit log of the API."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from db.environment import load_settings
from deploy.cli.durations import duration
from deploy.cli.help_text import Command, Group
from deploy.cli.startup import console

app = typer.Typer(cls=Group, no_args_is_help=True, help="Verify and export the log of reads of patient data.")


@app.command("verify", cls=Command)
def verify_log(
    heads: Annotated[
        Path | None, typer.Option(help="File with the heads that an earlier run printed: their rows must exist.")
    ] = None,
) -> None:
    """Recompute the hashes of all rows; exit with 1 if a row was changed, removed or inserted."""
    from deploy.operate.audit_log import actions

    raise typer.Exit(0 if actions.verify(load_settings(), console, heads) else 1)


@app.command("export", cls=Command)
def export_log(
    file: Annotated[Path, typer.Argument(help="File to write, one message a line; it holds Patient IDs.")],
    form: Annotated[
        str, typer.Option("--format", metavar="dicom|fhir", help="DICOM audit messages, or AuditEvents (IHE BALP).")
    ] = "dicom",
    since: Annotated[
        dt.timedelta | None, typer.Option(parser=duration, metavar="DURATION", help="Only rows of this time: 24h, 30d.")
    ] = None,
) -> None:
    """Write the rows as DICOM audit messages (XML) or FHIR AuditEvents (JSON)."""
    from deploy.operate.audit_log import actions

    if form not in {"dicom", "fhir"}:
        raise typer.BadParameter("expected `dicom` or `fhir`")
    begin = None if since is None else dt.datetime.now(dt.UTC) - since
    lines = actions.export(load_settings(), file, fhir=form == "fhir", since=begin)
    console.print(f"wrote {lines} lines to {file}")
