"""Commands of an operator: state of the system and of one study, checks, API keys."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from db.environment import load_settings
from deploy.cli.startup import console

PANEL = "Operate"
app = typer.Typer()
key_app = typer.Typer(no_args_is_help=True, help="Create and revoke API keys.")
command = partial(app.command, rich_help_panel=PANEL)

Study = Annotated[str, typer.Argument(help="Study id, Study Instance UID or accession number.")]


@command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show studies by state, the queue, live processes, the last error and alarms."""
    from deploy.operate.status import show

    show(load_settings(), console, as_json=as_json)


@command()
def ready(process: Annotated[str, typer.Argument(help="listener, dispatcher, worker, api or flower.")]) -> None:
    """Check that a process on this machine is ready (for health checks); exit with 1 if it is not."""
    from deploy.launcher.processes import is_ready

    raise typer.Exit(0 if is_ready(process, load_settings()) else 1)


@command("show")
def show_study(
    study: Study,
    images: Annotated[Path | None, typer.Option(help="Write the images of the report to this PNG file.")] = None,
    pictures: Annotated[Path | None, typer.Option(hidden=True, help="Old name of --images.")] = None,
) -> None:
    """Show one study: its series, its jobs and its current report."""
    from deploy.operate.study_actions import show

    show(load_settings(), console, study, images or pictures)


@command()
def retry(study: Study) -> None:
    """Queue a new attempt for a study that failed, was cancelled or was not reportable."""
    from db.jobs import claims
    from deploy.operate.study_actions import change

    change(load_settings(), study, claims.retry)


@command()
def cancel(study: Study) -> None:
    """Cancel a queued or running report."""
    from db.jobs import claims
    from deploy.operate.study_actions import change

    change(load_settings(), study, claims.cancel)


@command()
def settle(study: Study) -> None:
    """Settle a study now, without waiting for its quiet time."""
    from deploy.operate import study_actions

    study_actions.change(load_settings(), study, study_actions.settle)


@command()
def audit(
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair the violations that can be repaired without data loss.")
    ] = False,
) -> None:
    """Verify the invariants of spool and database; exit with 1 on violations."""
    from deploy.operate import audit as auditor

    raise typer.Exit(1 if auditor.show(load_settings(), console, repair=repair) else 0)


@command()
def bundle(
    study: Study, file: Annotated[Path, typer.Argument(help="JSON file to write.")] = Path("bundle.json")
) -> None:
    """Write a de-identified diagnostic bundle of a study for a developer."""
    from deploy.operate import bundle as bundler

    bundler.write(load_settings(), study, file)
    console.print(f"wrote {file}")


@command()
def settings() -> None:
    """Print every setting with its default and meaning, in Markdown."""
    from deploy.operate.settings_table import settings_tables

    print(settings_tables())  # noqa: T201 - raw Markdown, without rich's wrapping


@key_app.command("create")
def create_key(name: str) -> None:
    """Create an API key and print it; it cannot be printed again."""
    from db.access import keys
    from db.session import transaction

    with transaction(load_settings().database()) as session:
        print(keys.create(session, name))  # noqa: T201 - to be copied, without decoration


@key_app.command("revoke")
def revoke_key(name: str) -> None:
    """Revoke an API key."""
    from db.access import keys
    from db.session import transaction

    with transaction(load_settings().database()) as session:
        keys.revoke(session, name)
