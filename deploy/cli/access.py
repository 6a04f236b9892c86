"""Commands for access: keys of the API, the log of reads, passwords of the servers."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from deploy.cli.durations import duration
from deploy.cli.help_text import Command, Group
from deploy.cli.startup import console, load_settings

key_app = typer.Typer(cls=Group, no_args_is_help=True, help="Create, list and revoke API keys.")
log_app = typer.Typer(cls=Group, no_args_is_help=True, help="Verify, export and send the log of reads of patient data.")

secrets_app = typer.Typer(cls=Group, no_args_is_help=True, help="Rotate passwords while the processes run.")

KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key, shown in lists and logs.")]


@log_app.command("verify", cls=Command)
def verify_log(
    heads: Annotated[
        Path | None, typer.Option(help="File with the heads that an earlier run printed: their rows must exist.")
    ] = None,
) -> None:
    """Recompute the hashes of all rows; exit with 1 if a row was changed, removed or inserted."""
    from deploy.operate.audit_log import actions

    raise typer.Exit(0 if actions.verify(load_settings(), console, heads) else 1)


@log_app.command("export", cls=Command)
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


@log_app.command("send", cls=Command)
def send_log(
    off: Annotated[
        bool, typer.Option("--off", help="Record that the log is no longer sent, which ends its alarm; exit.")
    ] = False,
) -> None:
    """Run the process that sends the rows to PRELIM_AUDIT_SYSLOG_URL, by syslog over TLS."""
    from deploy.cli.startup import database_settings
    from deploy.operate.audit_log import sender

    settings = database_settings()
    if off:
        sender.switch_off(settings)
        console.print("the audit log is no longer sent; a sender that starts goes on where it ended")
    else:
        sender.run(settings)


@key_app.command("create", cls=Command)
def create_key(
    name: KeyName,
    scope: Annotated[list[str], typer.Option(help="Permission of the key; repeat it for several.")] = ["read"],  # noqa: B006 - Typer copies it
    ae_title: Annotated[
        list[str] | None,
        typer.Option(help="Show only studies that this calling AE title sent; repeat it for several; default: all."),
    ] = None,
    expires: Annotated[
        dt.timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="End of validity: 24h, 90d.", show_default="never"),
    ] = None,
) -> None:
    """Create an API key and print it; it cannot be printed again."""
    from db.access import keys
    from db.session import transaction

    with transaction(load_settings().database()) as session:
        key = keys.create(session, name, scope, ae_titles=ae_title, valid_for=expires)
    print(key)  # noqa: T201 - to be copied, without decoration


@key_app.command("list", cls=Command)
def list_keys() -> None:
    """List the API keys with their scopes, AE titles and expiry, never their text."""
    from db.access import keys
    from db.session import transaction

    with transaction(load_settings().database()) as session:
        found = keys.listed(session)
    table = Table(
        Column("key", overflow="fold"), "scopes", Column("AE titles", overflow="fold"), "state", "created", "expires"
    )
    for key in found:
        expiry = f"{key.expires_at:%Y-%m-%d %H:%M %Z}" if key.expires_at else "never"
        sites = "all" if key.ae_titles is None else ", ".join(key.ae_titles)
        table.add_row(key.name, ", ".join(key.scopes), sites, key.state, f"{key.created_at:%Y-%m-%d}", expiry)
    console.print(table)


@key_app.command("revoke", cls=Command)
def revoke_key(name: KeyName) -> None:
    """Revoke an API key."""
    from db.access import keys
    from db.session import transaction

    with transaction(load_settings().database()) as session:
        keys.revoke(session, name)


@secrets_app.command("rotate", cls=Command)
def rotate_secret(
    server: Annotated[str, typer.Argument(metavar="postgres|redis", help="Server that gets a new password.")],
    file: Annotated[
        Path | None,
        typer.Option(help="Secret file with the URL, to be rewritten.", show_default="in /run/secrets"),
    ] = None,
) -> None:
    """Give a server a new random password; processes that read its secret file use it for new connections."""
    from db.environment import SECRETS_DIRECTORY
    from deploy.operate.rotation import rotate

    if server not in rotate.SECRETS:
        raise typer.BadParameter("expected `postgres` or `redis`")
    written = rotate.rotate(server, file or SECRETS_DIRECTORY / f"prelim_{rotate.SECRETS[server]}")
    console.print(f"{server} has a new password; written: {', '.join(map(str, written))}", soft_wrap=True)
    if server == "redis" and len(written) == 1:
        console.print(
            "write it into the server's configuration, too: a restart brings the old one back", soft_wrap=True
        )
