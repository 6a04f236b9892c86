"""Commands that run processes: all of them, the demo, or one."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from db.errors import ConfigurationError
from deploy.cli.help_text import Command
from deploy.cli.startup import (
    console,
    database_settings,
    load_settings,
    process_settings,
    refuse_database,
    server_settings,
)

app = typer.Typer()
command = partial(app.command, cls=Command, rich_help_panel="Run")
NewDatabase = Annotated[
    bool, typer.Option("--new-database", help="Accept an empty database beside stored files, without their reports.")
]
#: Seconds that `canary --once` waits for the report if no time is set.
ONCE_SECONDS = 600


@command()
def up(*, new_database: NewDatabase = False) -> None:
    """Run all processes on this machine: databases, listener, dispatcher, worker, API and Flower."""
    settings = process_settings()
    from deploy.launcher import addresses
    from deploy.launcher.launcher import running
    from deploy.launcher.processes import MIGRATE
    from deploy.operate.doctor import preflight

    preflight.check(settings)
    with running(settings, migration=(*MIGRATE, "--new-database") if new_database else MIGRATE) as launcher:
        addresses.print_addresses(settings, launcher.print_line)
        launcher.run()
    raise typer.Exit(launcher.exit_status)


@command()
def demo(
    studies: Annotated[Path | None, typer.Option(help="Send this folder of DICOM files instead of phantoms.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Random seed of the phantoms.", show_default="a new one each time")
    ] = None,
    leave: Annotated[bool, typer.Option("--exit", help="Stop when every study has its report.")] = False,
) -> None:
    """Run all processes, send sample studies by DICOM and show their reports as they are written."""
    load_settings()  # refuses them before the imports
    from deploy.demo.demo import show

    raise typer.Exit(show(studies=studies, seed=seed, leave=leave))


@command()
def migrate(*, new_database: NewDatabase = False) -> None:
    """Upgrade the database schema to this version; refuse an empty database beside files of studies."""
    settings = database_settings()
    from db.migrations.upgrade import migrate as upgrade
    from deploy.launcher import lost_database

    if not new_database:
        lost_database.refuse_lost_database(settings)
    upgrade(settings.database())
    if new_database:
        lost_database.accept(settings)


@command()
def listen() -> None:
    """Run the DICOM listener, which receives studies."""
    settings = server_settings("dicom")
    from dicom_listener.receive.prefork import parent

    parent.run(settings)


@command()
def dispatch() -> None:
    """Run the dispatcher, which indexes received files, settles studies and queues their jobs."""
    settings = database_settings()
    from db.session import limit_statements
    from db.storage.errors import StorageError
    from deploy.launcher.lost_database import refuse_lost_database
    from dicom_listener import dispatch as dispatcher

    # The first query makes the pool of this process.
    limit_statements(settings, connections=dispatcher.CONNECTIONS)
    # One that cannot be reached now is no new one.
    with contextlib.suppress(SQLAlchemyError, StorageError):
        refuse_lost_database(settings, needs_files=True)
    dispatcher.run(settings)


@command()
def work() -> None:
    """Run a worker, which holds the model and writes reports (Celery)."""
    settings = process_settings()
    # A missing service is reported here, before Celery and the model's libraries are imported, and the database asked.
    settings.broker()
    settings.database()
    refuse_database(settings)
    from db.jobs.celery_app import worker_arguments

    if importlib.util.find_spec("torch") is None:
        raise ConfigurationError("torch is not installed: pip install 'prelim[worker]', or use an image for workers")
    # exec: the supervised process is Celery itself and receives the signals.
    os.execv(sys.executable, (sys.executable, "-m", "celery", "-A", "worker", *worker_arguments(settings)))  # noqa: S606 - no shell is wanted


@command()
def serve() -> None:
    """Run the API and the page."""
    settings = server_settings("api")
    from api.server import serve as server

    refuse_database(settings)
    server.run(settings)


@command()
def canary(
    once: Annotated[bool, typer.Option("--once", help="Send one; exit with 1 if it gets no report in time.")] = False,
) -> None:
    """Send a phantom study through the DICOM port every PRELIM_CANARY_SECONDS and expect its report."""
    from deploy.operate.canary import canary as sender

    settings = database_settings()
    if not once:
        sender.run(settings)
        return
    problem = sender.send_one(settings, settings.operations.canary_seconds or ONCE_SECONDS)
    console.print(problem or "the canary got its report")
    raise typer.Exit(1 if problem else 0)


@command()
def flower() -> None:
    """Run Flower, which shows the Celery queue; requires a password."""
    from deploy.operate import flower as flower_server

    flower_server.run(server_settings("flower"))


@command("send-traces")
def send_traces(
    off: Annotated[bool, typer.Option("--off", help="Record that no traces are sent any more; exit.")] = False,
) -> None:
    """Run the process that sends traces of ended jobs to the collector of PRELIM_TRACES_URL (OpenTelemetry)."""
    settings = database_settings()
    from deploy.operate.traces import sender

    if off:
        sender.switch_off(settings)
        console.print("no traces are sent; a sender that starts begins with the jobs that end then")
    else:
        sender.run(settings)
