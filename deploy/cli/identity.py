"""Commands about the identity of a study."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from db.environment import load_settings
from deploy.cli.help_text import Command
from deploy.cli.operate import PANEL, Study
from deploy.cli.startup import console

app = typer.Typer()
command = partial(app.command, cls=Command, rich_help_panel=PANEL)


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
    from db.studies.conflicts import Decision
    from deploy.operate import identities

    if decision is None:
        identities.show(load_settings(), console, study, values=values)
        return
    chosen = Decision(decision.replace("-", "_"))
    identities.decide(load_settings(), console, study, chosen, right)
