"""Commands of an operator: state of the system and of one study, checks."""

from __future__ import annotations

import datetime as dt
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from db.errors import ConfigurationError
from deploy.cli.durations import duration
from deploy.cli.help_text import Command
from deploy.cli.startup import console, load_settings, process_settings

PANEL = "Operate"
app = typer.Typer()
command = partial(app.command, cls=Command, rich_help_panel=PANEL)

#: Seconds between two views of `status --watch`.
WATCH_SECONDS = 5
STUDY_HELP = "Study id, Study Instance UID or accession number."
Study = Annotated[str, typer.Argument(metavar="STUDY", help=STUDY_HELP)]


@command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every 5 s, until Ctrl-C.")] = False,
) -> None:
    """Show studies by state, the queue, live processes, the last error and alarms."""
    from deploy.operate import status as state

    if as_json and watch:
        raise typer.BadParameter("expected either --json or --watch")
    if watch:
        state.watch(load_settings(), console, partial(time.sleep, WATCH_SECONDS))
    else:
        state.show(load_settings(), console, as_json=as_json)


@command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check settings, disk, databases, model, GPU and processes; exit with 1 on warnings, 2 on faults."""
    from deploy.operate.doctor.doctor import run

    raise typer.Exit(run(console, as_json=as_json))


RoleArgument = Annotated[
    str, typer.Argument(help="listener, dispatcher, worker, api, flower, canary, audit-sender or trace-sender.")
]


@command()
def ready(process: RoleArgument) -> None:
    """Check that a process on this machine can do its work (for health checks); exit with 1 if it cannot."""
    _check("ready", process)


@command()
def live(process: RoleArgument) -> None:
    """Check that a process on this machine runs and does not hang (for restarts); exit with 1 if a restart helps."""
    _check("live", process)


def _check(question: str, process: str) -> None:
    from deploy.launcher import role_probe

    if process not in role_probe.ROLES:
        raise ConfigurationError(f"unknown process {process}: expected {', '.join(role_probe.ROLES)}")
    raise typer.Exit(role_probe.run(question, process))


@command("list")
def list_studies(
    state: Annotated[str | None, typer.Option(help="Displayed state, for example failed.")] = None,
    modality: Annotated[str | None, typer.Option(help="Modality, for example CT.")] = None,
    reason: Annotated[str | None, typer.Option(help="Reason code of a study without report.")] = None,
    since: Annotated[
        dt.timedelta | None, typer.Option(parser=duration, metavar="DURATION", help="Received within: 90m, 24h, 30d.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Number of studies.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List studies, the newest first, without patient attributes."""
    from db.operations.filters import Filters
    from deploy.operate import study_list

    received_since = None if since is None else dt.datetime.now(dt.UTC) - since
    filters = Filters(state, modality.upper() if modality else None, reason, received_since)
    study_list.show(load_settings(), console, filters, limit=limit, as_json=as_json)


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
def trace(study: Study, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the whole life of a study, from its first object to the reads of its reports, without patient data."""
    from deploy.operate.monitoring.trace import show

    show(load_settings(), console, study, as_json=as_json)


@command()
def replay(
    report: Annotated[str, typer.Argument(metavar="REPORT", help="Report id, or a study: its current report.")],
    version: Annotated[int | None, typer.Option(min=1, help="Version of the study's report.")] = None,
) -> None:
    """Write a report again from its stored images and prompt, and show the difference; exit with 1 if there is one."""
    from deploy.operate import replay as again

    raise typer.Exit(0 if again.replay(process_settings(), console, report, version) else 1)


@command()
def retry(
    study: Annotated[str | None, typer.Argument(metavar="STUDY", help=STUDY_HELP)] = None,
    reason: Annotated[
        str | None, typer.Option(help="Retry every study that ended for this reason, for example worker_lost.")
    ] = None,
) -> None:
    """Queue a new attempt for a study, or an inquiry, that failed, was cancelled or was not reportable.

    With --reason, for all studies that ended for it.
    """
    from db.jobs import claims
    from deploy.operate import study_actions, study_list

    if (study is None) == (reason is None):
        raise typer.BadParameter("expected either a study or --reason")
    if reason is not None:
        raise typer.Exit(study_list.retry_all(load_settings(), console, reason))
    if not study_actions.change_inquiry(load_settings(), study or "", claims.retry_inquiry):
        study_actions.change(load_settings(), study or "", claims.retry)


@command()
def cancel(study: Study) -> None:
    """Cancel the queued or running report of a study, or the question or diagnosis with this id."""
    from db.jobs import claims
    from deploy.operate import study_actions

    if not study_actions.change_inquiry(load_settings(), study, claims.cancel_inquiry):
        study_actions.change(load_settings(), study, claims.cancel)


@command()
def settle(study: Study) -> None:
    """Settle a study now, without waiting for its quiet time."""
    from db.answers import rules
    from deploy.operate import study_actions

    settings = load_settings()
    operation = partial(study_actions.settle, tasks=rules.load(settings.study.rules))
    study_actions.change(settings, study, operation)


@command()
def audit(
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair the violations that can be repaired without data loss.")
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="Number of stored files to read, of random pages of the tables; default: all."),
    ] = None,
    since: Annotated[
        dt.timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="Read only files indexed in this time, such as 24h."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Read the stored files from where the last --resume was interrupted.")
    ] = False,
) -> None:
    """Verify the invariants of spool and database; exit with 1 on violations."""
    from deploy.operate import audit as auditor

    if resume and (sample is not None or since is not None):
        raise typer.BadParameter("--resume reads all files: use it without --sample and --since")
    scope = auditor.Scope(sample, since, resume)
    raise typer.Exit(1 if auditor.run(load_settings(), console, repair=repair, scope=scope) else 0)


@command()
def retain(
    older_than: Annotated[
        dt.timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="Age, such as 365d, of studies without a rule."),
    ] = None,
    images_only: Annotated[
        bool, typer.Option("--images-only", help="Delete the images of reports; studies and texts stay.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be deleted.")] = False,
    without_report: Annotated[
        bool, typer.Option("--without-report", help="Delete studies that ended without a report, too.")
    ] = False,
) -> None:
    """Delete studies that ended long ago, with their files and reports, or only the images of their reports."""
    from deploy.operate import retain as retention

    which = {"images_only": images_only, "without_report": without_report}
    retention.run(load_settings(), console, older_than, dry_run=dry_run, **which)


app.command("purge", cls=Command, hidden=True)(retain)


@command()
def erase(
    patient: Annotated[str | None, typer.Option(help="Patient ID; `-` reads it. Without it, continue.")] = None,
    issuer: Annotated[str | None, typer.Option(help="Issuer of the Patient ID, if several use it.")] = None,
    no_issuer: Annotated[bool, typer.Option("--no-issuer", help="The patient whose ID has no issuer.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be erased.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Erase without a question.")] = False,
) -> None:
    """Erase a patient everywhere: studies in any state, files, reports, reference cases; a restore erases again."""
    from deploy.operate.erasure import erase as erasing

    settings = load_settings()
    if patient is None:
        erasing.resume(settings, console)
        return
    patient = erasing.patient_of(typer.get_text_stream("stdin") if patient == "-" else [patient], whole=yes)
    issuer = erasing.issuer_of(issuer, none=no_issuer)
    found = erasing.show(settings, console, patient, issuer)
    if dry_run:
        return
    if not yes:
        typer.confirm("Erase all of it? This cannot be undone", abort=True)
    raise typer.Exit(0 if any(erasing.run(settings, console, patient, issuer, found)) else 1)


@command("move-images")
def move_images(
    to: Annotated[str, typer.Argument(metavar="database|files", help="Place of all stored images.")],
) -> None:
    """Move the stored images of reports into files, or back into the database; new ones follow the setting."""
    from deploy.operate.report_images import move

    if to not in {"database", "files"}:
        raise typer.BadParameter("expected `database` or `files`")
    move(load_settings(), console, "files" if to == "files" else "database")


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


@command()
def plan(
    studies: Annotated[float | None, typer.Option(min=1, max=1e8, help="Studies a day, else 1000.")] = None,
    reports_per_minute: Annotated[float | None, typer.Option(min=0.1, max=1e6, help="Of a worker, else 20.")] = None,
    slots: Annotated[int | None, typer.Option(min=1, max=1000, help="Reports of a worker at a time, else 4.")] = None,
    from_database: Annotated[
        bool, typer.Option("--from-database", help="Use arrivals, sizes and durations of the last 28 days.")
    ] = False,
    days: Annotated[float, typer.Option(min=1, max=1e5, help="Days for which received objects are kept.")] = 365,
    workers: Annotated[int | None, typer.Option(min=1, max=1e6, help="Workers (GPUs) that there are.")] = None,
    disk_tb: Annotated[float | None, typer.Option(min=0.001, max=1e9, help="Disk of the spool, in TB.")] = None,
    network_gbit: Annotated[float | None, typer.Option(min=0.001, max=1e9, help="Network, in Gbit/s.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate workers, disk, network and waits for a number of studies; exit with 1 if the given ones are too few."""
    from deploy.operate.plan import load, needs
    from deploy.operate.plan import plan as planner

    machine = needs.Machine(workers, disk_tb and disk_tb * 1e12, network_gbit and network_gbit * 1e9)
    if from_database and (reports_per_minute or slots):
        raise typer.BadParameter("expected --reports-per-minute and --slots without --from-database, which has its own")
    given, measured = load.read(load_settings()) if from_database else (load.assumed(reports_per_minute, slots), None)
    given = given.with_studies(studies or given.studies)
    raise typer.Exit(0 if planner.show(console, given, machine, days, measured, as_json=as_json) else 1)
