"""Commands about the identity of a study, and about files in quarantine."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from deploy.cli.help_text import Command, Group
from deploy.cli.operate import PANEL, Study
from deploy.cli.startup import console, load_settings

app = typer.Typer()
command = partial(app.command, cls=Command, rich_help_panel=PANEL)
quarantine_app = typer.Typer(
    cls=Group, no_args_is_help=True, help="See files in quarantine, and take corrected objects."
)


class Choice(StrEnum):
    """Decisions as a command's argument."""

    KEEP_APART = "keep-apart"
    TAKE_OVER = "take-over"
    REFUSE = "refuse"


@command("identity")
def decide_identity(
    study: Study,
    decision: Annotated[
        Choice | None,
        typer.Argument(
            help="keep-apart: different patients, a report each. take-over: one patient, the demographics of one"
            " identity are right for all objects. refuse: set the later objects aside. Without it, show the identities."
        ),
    ] = None,
    right: Annotated[
        int | None,
        typer.Option(help="Number of the identity with the right demographics (take-over); default: latest."),
    ] = None,
    values: Annotated[bool, typer.Option("--values", help="Show the patient's attributes too.")] = False,
) -> None:
    """Show or decide about a study that is held because objects of different patients arrived for it."""
    from db.studies.identity.decisions import Decision
    from deploy.operate import identities

    if decision is None:
        identities.show(load_settings(), console, study, values=values)
        return
    chosen = Decision(decision.replace("-", "_"))
    identities.decide(load_settings(), console, study, chosen, right)


@quarantine_app.command("list", cls=Command)
def list_quarantine(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Number of files.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the files in quarantine, the latest first, with their reasons."""
    from deploy.operate import quarantined_files

    quarantined_files.show(load_settings(), console, limit=limit, as_json=as_json)


@quarantine_app.command("take", cls=Command)
def take_quarantined(
    name: Annotated[
        str, typer.Argument(metavar="FILE|STUDY", help="Id of the file, or the study for all its objects.")
    ],
) -> None:
    """Replace stored objects by resent ones with other demographics and the same pixels; exit with 1 if one is not."""
    from deploy.operate import quarantined_files

    raise typer.Exit(1 if quarantined_files.take(load_settings(), console, name) else 0)
