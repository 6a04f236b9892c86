"""The `prelim` command: parses, calls, translates errors; each process is imported only by its own command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from sqlalchemy.exc import OperationalError

from db import logs
from db.environment import load_settings
from db.errors import PrelimError

if TYPE_CHECKING:
    from db.settings import Settings
    from dicom_listener.scu.send import Node


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Preliminary radiology reports, written while the patient is still leaving the scanner.",
)
checkpoint_app = typer.Typer(no_args_is_help=True, help="Make, convert and inspect model checkpoints.")
reference_app = typer.Typer(no_args_is_help=True, help="The earlier cases that reports are grounded in.")
key_app = typer.Typer(no_args_is_help=True, help="Bearer keys of the API.")
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(reference_app, name="reference")
app.add_typer(key_app, name="key")
console = Console(markup=False, highlight=False)

Study = Annotated[str, typer.Argument(help="Its id, Study Instance UID or accession number.")]
Host = Annotated[str | None, typer.Option(help="The other node; unset: our own listener.")]
NodePort = Annotated[int | None, typer.Option("--port", help="Its port.")]
Called = Annotated[str | None, typer.Option(help="Its AE title.")]
Calling = Annotated[str, typer.Option(help="Our AE title.")]
Tls = Annotated[bool | None, typer.Option("--tls/--no-tls", help="Speak TLS; unset: as our own listener, if it is it.")]
Authority = Annotated[Path | None, typer.Option("--ca", help="PEM certificate that its certificate must be signed by.")]
Images = Annotated[Path | None, typer.Option(help="Draw what the model saw into this PNG.")]


def main() -> None:
    """Run a command; an expected error is one line on standard error and exit status 2."""
    # Whatever is written below the data folder is for its owner only.
    os.umask(0o077)
    try:
        app()
    except PrelimError as error:
        _refuse(str(error))
    except OperationalError as error:
        # The driver's words name the address and the cause, and no row.
        _refuse(f"the database does not answer: {error.orig}".strip())
    except OSError as error:
        _refuse(f"{error.filename or 'the operating system'}: {error.strerror or error}")


def _refuse(problem: str) -> NoReturn:
    Console(stderr=True, markup=False, highlight=False).print(f"error: {problem}", soft_wrap=True)
    sys.exit(2)


def _process() -> Settings:
    settings = load_settings()
    logs.configure(settings)
    return settings


def _server(name: str) -> Settings:
    from deploy.operate.preflight import check_port

    settings = _process()
    check_port(settings, f"{name}_host", f"{name}_port")
    return settings


@app.command()
def up() -> None:
    """Run everything on this machine: databases, listener, dispatcher, worker, API and Flower."""
    from deploy.launcher import addresses
    from deploy.launcher.launcher import running
    from deploy.operate import preflight

    settings = _process()
    preflight.check(settings)
    with running(settings) as launcher:
        addresses.print_addresses(settings, launcher.print_line)
        launcher.run()
    raise typer.Exit(launcher.exit_status)


@app.command()
def demo(
    studies: Annotated[
        Path | None, typer.Option(help="Send this folder of DICOM files instead of made-up studies.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the made-up studies; unset: new ones each time.")
    ] = None,
    leave: Annotated[bool, typer.Option("--exit", help="Stop when every study has its report.")] = False,
) -> None:
    """See it work: start everything, send sample studies over DICOM, watch their reports appear."""
    from deploy.demo.demo import show

    raise typer.Exit(show(studies=studies, seed=seed, leave=leave))


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date."""
    from db.session import migrate as bring_up_to_date

    bring_up_to_date(_process().database())


@app.command()
def listen() -> None:
    """Receive studies: the DICOM listener."""
    from dicom_listener.receive import listener

    listener.run(_server("dicom"))


@app.command()
def dispatch() -> None:
    """Index what was received, judge studies complete, queue their reports."""
    from dicom_listener import dispatch as dispatcher

    dispatcher.run(_process())


@app.command()
def work() -> None:
    """Write reports: a Celery worker with the model in memory."""
    settings = _process()
    # Said here, before Celery and the model's libraries are imported.
    settings.broker()
    settings.database()
    slots = f"--concurrency={settings.queue.worker_slots}"
    # exec: the process that is supervised is Celery itself, and gets the signals.
    celery = (
        "celery",
        "-A",
        "worker",
        "worker",
        "--pool=threads",
        slots,
        f"--loglevel={settings.operations.log_level}",
        "--without-mingle",
    )
    os.execv(sys.executable, (sys.executable, "-m", *celery))  # noqa: S606 - no shell is wanted


@app.command()
def serve() -> None:
    """Serve the API and the radiologist's page."""
    from api import server

    server.run(_server("api"))


@app.command()
def flower() -> None:
    """Serve Flower, password protected, for operations."""
    from deploy.operate import flower as flower_server

    flower_server.run(_server("flower"))


@app.command()
def send(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files, or folders of them.")],
    host: Host = None,
    port: NodePort = None,
    called: Called = None,
    calling: Calling = "PRELIM_SCU",
    tls: Tls = None,
    ca: Authority = None,
) -> None:
    """Send DICOM files by C-STORE, as a modality does; status 1 when one was not taken."""
    from dicom_listener.scu import send

    raise typer.Exit(send.send(paths, _node(host, port, called, calling, tls=tls, ca=ca)))


@app.command()
def echo(
    host: Host = None,
    port: NodePort = None,
    called: Called = None,
    calling: Calling = "PRELIM_SCU",
    tls: Tls = None,
    ca: Authority = None,
) -> None:
    """Ask a DICOM node whether it is there (C-ECHO); status 1 when it is not."""
    from dicom_listener.scu import send

    raise typer.Exit(send.echo(_node(host, port, called, calling, tls=tls, ca=ca)))


@app.command()
def commit(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files that were sent, or folders of them.")],
    host: Host = None,
    port: NodePort = None,
    called: Called = None,
    calling: Calling = "PRELIM_SCU",
    tls: Tls = None,
    ca: Authority = None,
    listen_port: Annotated[int | None, typer.Option(help="Where we wait for the answer on a new association.")] = None,
) -> None:
    """Ask a DICOM node whether it keeps what was sent (storage commitment); status 1 when it does not."""
    from dicom_listener.scu import commit

    node = _node(host, port, called, calling, tls=tls, ca=ca)
    raise typer.Exit(commit.commit(paths, node, listen_port=listen_port))


@app.command()
def conformance() -> None:
    """Print the DICOM conformance statement of this configuration."""
    from dicom_listener.conformance import statement

    print(statement(load_settings()))  # noqa: T201 - raw Markdown, without rich's wrapping


def _node(
    host: str | None, port: int | None, called: str | None, calling: str, *, tls: bool | None, ca: Path | None
) -> Node:
    from deploy.launcher.processes import loopback_address
    from dicom_listener.receive.tls import client_context
    from dicom_listener.scu.send import Node

    settings = load_settings()
    if tls is None:
        tls = ca is not None or (host is None and settings.dicom.tls_certificate is not None)
    return Node(
        host=host or loopback_address(settings.dicom.dicom_host),
        port=port or settings.dicom.dicom_port,
        called=called or settings.dicom.ae_title,
        calling=calling,
        tls=client_context(settings, ca) if tls else None,
    )


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show studies by state, the queue, who is alive and the last error, from the database."""
    from deploy.operate.status import show

    show(load_settings(), console, as_json=as_json)


@app.command()
def ready(process: Annotated[str, typer.Argument(help="listener, dispatcher, worker, api or flower.")]) -> None:
    """Say whether a process of this machine works: status 0 or 1, for health checks."""
    from deploy.launcher.processes import is_ready

    raise typer.Exit(0 if is_ready(process, load_settings()) else 1)


@app.command()
def show(study: Study, images: Images = None) -> None:
    """Show one study: what arrived, what became of it, its report."""
    from deploy.operate.studies import show as show_study

    show_study(load_settings(), console, study, images)


@app.command()
def retry(study: Study) -> None:
    """Try again a study that failed, was cancelled or could not be reported."""
    from deploy.operate import studies

    studies.change(load_settings(), study, studies.retry)


@app.command()
def cancel(study: Study) -> None:
    """Give up the report that waits or is being written for a study."""
    from deploy.operate import studies

    studies.change(load_settings(), study, studies.cancel)


@app.command()
def settle(study: Study) -> None:
    """Judge a study complete now, without waiting for its quiet time."""
    from deploy.operate import studies

    studies.change(load_settings(), study, studies.settle)


@app.command()
def audit(repair: Annotated[bool, typer.Option("--repair", help="Mend what is safe to mend.")] = False) -> None:
    """Prove from database and disk that nothing is lost and nothing twice; status 1 where it is."""
    from deploy.operate import audit as auditor

    raise typer.Exit(1 if auditor.show(load_settings(), console, repair=repair) else 0)


@app.command()
def bundle(
    study: Study, file: Annotated[Path, typer.Argument(help="Where to write it, as JSON.")] = Path("bundle.json")
) -> None:
    """Write down why a study failed, for a developer: headers, tries and versions, and nothing of its patient."""
    from deploy.operate import bundle as bundler

    bundler.write(load_settings(), study, file)
    console.print(f"wrote {file}")


@app.command("settings")
def show_settings() -> None:
    """Print every setting with its default and meaning, in Markdown."""
    from deploy.operate.settings_table import settings_tables

    print(settings_tables())  # noqa: T201 - raw Markdown, without rich's wrapping


@app.command()
def phantoms(
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    count: Annotated[int, typer.Option(min=1, help="How many studies.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same studies.")] = 0,
) -> None:
    """Write made-up studies as DICOM files, with their truth beside them."""
    from worker.evaluation import phantom_cases

    console.print(f"{phantom_cases.phantoms(count, seed, out)} files in {out}", highlight=False)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="The model's directory.")],
    cases: Annotated[Path | None, typer.Option(help="Folder with cases.jsonl and its DICOM files.")] = None,
    phantoms: Annotated[int | None, typer.Option(min=1, help="Instead of a folder: so many made-up studies.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Folder of earlier cases to retrieve from.")] = None,
    retrieval: Annotated[bool, typer.Option(help="Whether similar earlier cases are given to the model.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the made-up studies.")] = 3_100_000,
    out: Annotated[Path | None, typer.Option(help="Write the figures and their plot here.")] = None,
) -> None:
    """Measure how well a checkpoint reads cases with known reports, offline."""
    from worker.evaluation import phantom_cases as demo
    from worker.evaluation import run as evaluation

    if (cases is None) == (phantoms is None):
        raise typer.BadParameter("name either --cases or --phantoms")
    options = evaluation.options_of(_process(), reference if retrieval else None)
    if cases is not None:
        result = evaluation.evaluate(cases, checkpoint, options, out=out)
    else:
        result = demo.evaluate_phantoms(phantoms or 0, checkpoint, options, seed=seed, retrieval=retrieval, out=out)
    for table in result.tables():
        console.print(table)
    for line in result.failed:
        console.print(f"not reported: {line}", highlight=False)


@checkpoint_app.command("random")
def checkpoint_random(directory: Path, seed: int = 0) -> None:
    """Write a tiny model with random weights: it runs everywhere and says nothing of sense."""
    from worker.model.checkpoint import commands

    commands.random(directory, seed)


@checkpoint_app.command("convert")
def checkpoint_convert(
    source: Annotated[Path, typer.Argument(help="The published MedDr_0401 directory.")],
    destination: Annotated[Path, typer.Argument(help="The new directory.")],
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
) -> None:
    """Turn the published MedDr layout into what the worker loads; all of it appears, or nothing."""
    from worker.model.checkpoint import commands

    commands.convert(source, destination, dtype)


@checkpoint_app.command("info")
def checkpoint_info(directory: Path) -> None:
    """Print a checkpoint's sizes, and what it takes to run it."""
    from worker.model.checkpoint import commands

    commands.info(directory)


@checkpoint_app.command("verify")
def checkpoint_verify(directory: Path) -> None:
    """Check a checkpoint's bytes, load it and let it write a few tokens."""
    from worker.model.checkpoint import commands

    commands.verify(directory)


@reference_app.command("build")
def reference_build(
    folder: Annotated[Path, typer.Argument(help="Folder with cases.jsonl and its DICOM files.")],
) -> None:
    """Load earlier cases and build the index of the configured checkpoint over them."""
    from worker.resident import build_reference

    count, left_out = build_reference(folder, _process())
    for line in left_out:
        console.print(f"left out: {line}", highlight=False)
    console.print(f"{count} cases indexed")


@key_app.command("create")
def key_create(name: str) -> None:
    """Make a key and show it, this once."""
    from db.access import keys
    from db.session import transaction

    with transaction() as session:
        print(keys.create(session, name))  # noqa: T201 - to be copied, without decoration


@key_app.command("revoke")
def key_revoke(name: str) -> None:
    """Make a key worthless."""
    from db.access import keys
    from db.session import transaction

    with transaction() as session:
        keys.revoke(session, name)


if __name__ == "__main__":
    main()
