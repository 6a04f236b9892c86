"""Commands that ask about a study: questions, choices between diagnoses, their answers, predictions given to them."""

from __future__ import annotations

import sys
import time
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.help_text import Command, Group
from deploy.cli.operate import PANEL, Study
from deploy.cli.startup import console, load_settings

if TYPE_CHECKING:
    from db.answers.answer import Choice, Question, Stored
    from db.answers.inquiries import AskedInquiry
    from db.settings import Settings

app = typer.Typer()
command = partial(app.command, cls=Command, rich_help_panel=PANEL)
predictions_app = typer.Typer(
    cls=Group, no_args_is_help=True, help="Take predictions of specialist models about studies."
)

#: Seconds between two looks for the answer.
POLL_SECONDS = 0.5
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for the answer; 0: print the id and return.")]


@command("ask")
def ask(
    study: Study,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="One line of text; - reads standard input.")],
    wait: Wait = 120.0,
) -> None:
    """Ask a question about the images of a study; exit with 1 if it has no answer in time."""
    from db.answers.answer import Question

    text = sys.stdin.read() if question == "-" else question
    raise typer.Exit(_ask(load_settings(), study, Question(text), wait))


@command("diagnose")
def diagnose(
    study: Study,
    options: Annotated[str, typer.Option(help="Diagnoses to choose from, separated by commas.")],
    several: Annotated[bool, typer.Option("--several", help="More than one may be chosen.")] = False,
    wait: Wait = 120.0,
) -> None:
    """Choose between diagnoses by the images of a study; exit with 1 if it has no answer in time."""
    from db.answers.answer import Choice

    choice = Choice(options.split(","), several=several)
    raise typer.Exit(_ask(load_settings(), study, choice, wait))


@command("answers")
def answers(study: Study) -> None:
    """List the questions and diagnoses about a study with their answers, the newest first."""
    from db.answers import inquiries, stored
    from db.session import transaction
    from db.studies import lifecycle

    with transaction(load_settings().database()) as session:
        every = inquiries.of_study(session, lifecycle.find(session, study).id)
        found = [(asked, stored.read(session, asked.id)) for asked in every]
    for asked, answer in found:
        _show(asked, answer)


def _ask(settings: Settings, study: str, asked: Question | Choice, wait: float) -> int:
    from db.answers import inquiries
    from db.session import transaction
    from db.studies import lifecycle
    from deploy.operate.audit_log.command_entries import user

    with transaction(settings.database()) as session:
        inquiry_id = inquiries.ask(session, lifecycle.find(session, study, lock=True), asked, user())
    if not wait:
        console.print(str(inquiry_id), highlight=False)
        return 0
    return _wait(settings, inquiry_id, wait)


def _wait(settings: Settings, inquiry_id: uuid.UUID, seconds: float) -> int:
    """Print the answer as soon as it exists; return 1 if there is none after *seconds*."""
    from db.answers import inquiries, stored
    from db.session import transaction
    from db.states import OPEN_JOBS

    ends_at = time.monotonic() + seconds
    while True:
        with transaction(settings.database()) as session:
            asked, answer = inquiries.find(session, inquiry_id), stored.read(session, inquiry_id)
        if asked is None or asked.state not in OPEN_JOBS or time.monotonic() > ends_at:
            break
        time.sleep(POLL_SECONDS)
    if asked is not None:
        _show(asked, answer)
    return 0 if answer else 1


def _show(asked: AskedInquiry, answer: Stored | None) -> None:
    from db.reports.versions import BANNER

    print_line = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    reason = f": {asked.detail} ({asked.reason})" if asked.reason and answer is None else ""
    print_line(f"{asked.kind} {asked.id}, {asked.state}{reason}")
    print_line(asked.words)
    if answer is None:
        return
    result = answer.result
    console.print(BANNER, style="bold")
    print_line(result.text, _confidence(answer), sep="\n")
    for option in getattr(result, "options", ()):
        print_line(f"  {option.probability:.2f} {option.label}{_votes(option.votes)}")
    if (none_of_these := getattr(result, "none_of_these", None)) is not None:
        print_line(f"  {none_of_these:.2f} none of these")
    print_line(f"{result.basis}, revision {answer.revision}", *answer.limitations, sep="\n")


def _confidence(answer: Stored) -> str:
    if answer.result.confidence is None:
        return "confidence not measured"
    reason = f": {answer.calibration_reason}" if answer.calibration_reason else ""
    return f"confidence {answer.result.confidence:.2f} ({answer.calibration}{reason})"


def _votes(votes: int) -> str:
    return f" ({votes} similar case{'' if votes == 1 else 's'})" if votes else ""


@predictions_app.callback()
def predictions_group() -> None:
    """Take predictions of specialist models about studies."""


@predictions_app.command("import", cls=Command)
def import_predictions(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines; - reads standard input.")],
) -> None:
    """Store the predictions of a file: {study, name, version, label, score}, or draft instead of label, in each line.

    All are stored, or none on an error.
    """
    from db.answers import predictions
    from db.session import transaction
    from deploy.operate.audit_log.command_entries import user

    text = sys.stdin.read() if str(file) == "-" else file.read_text()
    found = predictions.of_lines(text.splitlines())
    with transaction(load_settings().database()) as session:
        new = predictions.add(session, found, f"file, by {user()}")
    console.print(f"stored {new} of {len(found)} predictions; the others were stored before")


@predictions_app.command("list", cls=Command)
def list_predictions() -> None:
    """List the oldest predictions that belong to no study, with the reason."""
    from db.answers import unmatched
    from db.session import transaction

    with transaction(load_settings().database()) as session:
        found = unmatched.listed(session)
    for one in found:
        kind = "draft" if one.is_draft else "label"
        words = f"{one.received_at:%Y-%m-%d %H:%M %Z}  {kind} of {one.name} {one.version} for {one.study}: {one.reason}"
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    if not found:
        console.print("every prediction belongs to a study")
