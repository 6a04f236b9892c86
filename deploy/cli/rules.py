"""Commands about the site's rules: which studies get which tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from db.environment import load_settings
from deploy.cli.help_text import Command, Group
from deploy.cli.operate import Study  # noqa: TC001 - Typer reads it at run time
from deploy.cli.startup import console

if TYPE_CHECKING:
    from db.answers.rules import Rule

app = typer.Typer(cls=Group, no_args_is_help=True, help="Check the rules of tasks, and see what they give a study.")


@app.command("check", cls=Command)
def check(file: Annotated[Path, typer.Argument(metavar="FILE", help="File for PRELIM_RULES.")]) -> None:
    """Print the tasks of each rule of a file; a file with an error is one error, with its line."""
    from db.answers import rules

    for rule in (*rules.load(file).rules, rules.DEFAULT):
        _print(rule)


@app.command("explain", cls=Command)
def explain(study: Study) -> None:
    """Print the values of a study that rules look at, and the rule that decides about it."""
    from db.answers import rules
    from db.session import transaction
    from db.studies import lifecycle

    settings = load_settings()
    known = rules.load(settings.study.rules)
    with transaction(settings.database()) as session:
        values = rules.attributes(session, lifecycle.find(session, study))
    for name, found in values._asdict().items():
        console.print(f"{name}: {', '.join(found) or '-'}", markup=False, highlight=False)
    _print(known.of(values))


def _print(rule: Rule) -> None:
    conditions = " and ".join(f"{name} is {' or '.join(patterns)}" for name, patterns in rule.patterns.items())
    console.print(f"rule {rule.name}: {conditions or 'any study'}", markup=False, highlight=False, soft_wrap=True)
    for task in rule.tasks():
        console.print(f"  {task}", markup=False, highlight=False, soft_wrap=True)
