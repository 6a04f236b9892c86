"""Commands about the site's rules: which studies get which tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.help_text import Command, Group
from deploy.cli.operate import Study  # noqa: TC001 - Typer reads it at run time
from deploy.cli.startup import console, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from db.answers.rules import Rule

app = typer.Typer(cls=Group, no_args_is_help=True, help="Check the rules of tasks, and see what they give a study.")


@app.command("check", cls=Command)
def check(file: Annotated[Path, typer.Argument(metavar="FILE", help="File for PRELIM_RULES.")]) -> None:
    """Print the tasks of each rule of a file; a file with an error is one error, with its line."""
    from db.answers import rules

    earlier = ""
    for rule in (*rules.load(file).rules, rules.DEFAULT):
        _print(rule)
        if earlier:
            console.print(f"  never used: the rule {earlier} matches every study", markup=False, highlight=False)
        for line in _unanswerable(rule):
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        earlier = earlier or (rule.name if rule.matches_all else "")


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


def _unanswerable(rule: Rule) -> Iterator[str]:
    """Yield a line for each question that no short answer settles, so that every answer would be "cannot tell"."""
    from db.answers.answer import Question
    from worker.pipeline.possible_answers import SIDES, YES
    from worker.pipeline.question_forms import unsettled

    for asked in rule.asked:
        if isinstance(asked, Question) and all(unsettled(asked.text, text) for text in (YES, *SIDES)):
            yield f'always answered "cannot tell": {asked.text} {unsettled(asked.text, YES)}'


def _print(rule: Rule) -> None:
    conditions = " and ".join(f"{name} is {' or '.join(patterns)}" for name, patterns in rule.patterns.items())
    console.print(f"rule {rule.name}: {conditions or 'any study'}", markup=False, highlight=False, soft_wrap=True)
    for task in rule.tasks():
        console.print(f"  {task}", markup=False, highlight=False, soft_wrap=True)
