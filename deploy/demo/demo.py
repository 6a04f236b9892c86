"""Run `prelim demo`: start all processes, send sample studies and show their reports as they are written."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from rich.console import Console
from rich.live import Live

from db import logs, reference
from db.environment import load_settings, variable
from db.errors import ConfigurationError, PrelimError
from db.operations import overview
from db.reports import reference_reports, versions
from db.session import transaction
from db.settings import SECTION_OF
from deploy.demo.table import DemoTable
from deploy.embedded.server_process import free_port
from deploy.launcher import addresses
from deploy.launcher.child import find_program
from deploy.launcher.launcher import running
from deploy.operate.doctor.ports import SERVERS, is_free
from deploy.operate.doctor.preflight import check
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received
from worker.model.checkpoint.manifest import read_manifest
from worker.phantoms.datasets import REFERENCE_CASES, write_demo_studies, write_reference_cases
from worker.retrieval.case_files import CASES
from worker.retrieval.index import ReferenceIndex

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy.orm import Session

    from db.operations.overview import StudyLine
    from db.settings import Settings
    from deploy.launcher.launcher import Launcher

STUDIES = 8
#: Shipped with Prelim; its card says how it was trained.
CHECKPOINT = Path(__file__).parent / "checkpoint"
#: Settings of the demo unless set by the user: a short quiet time shows reports sooner and a folder of files has no
#: late images; `prelim up` shows the log lines that would interrupt the table.
#: A laptop whose disk is nearly full can run the demo.
DEFAULTS = {"settle_seconds": 2.0, "log_level": "warning", "urgent_only_disk_percent": 100.0, "canary_seconds": 0}
#: Seconds to wait for the last report; a laptop writes one in about a second.
MAX_WAIT_SECONDS = 600
REFRESH_SECONDS = 0.5
#: Seconds between checks for a stop signal.
POLL_SECONDS = 0.1
console = Console(markup=False, highlight=False)


class Stop(Protocol):
    """Source of stop signals: the launcher, or a fake."""

    @property
    def stopping(self) -> bool:
        """True after a stop signal."""


class DemoFailed(PrelimError):
    """Raised when a step of the demo failed; its own output shows the cause."""


def show(*, studies: Path | None, seed: int | None, leave: bool) -> int:
    """Run the demo and return its exit status.

    With *leave* it ends by itself: 0 if every study has its report, else 1. Raises ConfigurationError, DemoFailed.
    """
    if studies is not None and not studies.is_dir():
        raise ConfigurationError(f"not a directory: {studies}: expected a directory with DICOM files")
    given = load_settings()
    settings = demo_settings(given)
    logs.configure(settings)
    check(settings)
    if studies and read_manifest(settings.checkpoint_directory).demo:
        console.print("the demo checkpoint reads phantoms only: its reports on other images mean nothing")
    seed = secrets.randbelow(2**31) if seed is None else seed
    folders, reports = ([studies], {}) if studies else _phantom_studies(settings, seed)
    references = _reference_cases(settings)
    environment = environment_of(settings, given)
    with running(settings, environment=environment) as launcher:
        _reference_index(settings, references, environment, launcher)
        if launcher.stopping:
            return launcher.exit_status
        addresses.print_addresses(settings, launcher.print_line)
        sender = ["send", *_demo_title(settings), *map(str, folders)]
        with _started(sender, environment) as sending:
            table = DemoTable(reports)
            status = _watch(settings, launcher, sending, set(_study_uids(folders)), table, leave=leave)
    return status if leave else launcher.exit_status


def demo_settings(given: Settings) -> Settings:
    """Return *given* with the demo's defaults, free ports and a checkpoint wherever the user set none."""
    changes = {name: value for name, value in DEFAULTS.items() if not _is_set(given, name)}
    for host, port in SERVERS.values():
        values = given.by_name()
        if not _is_set(given, port) and not is_free(values[host], values[port]):
            changes[port] = free_port()
            console.print(f"port {values[port]} is in use: {variable(port)}={changes[port]}")
    return given.replace(**changes, **_checkpoint(given))


def environment_of(settings: Settings, given: Settings) -> dict[str, str]:
    """Return the environment variables that turn *given* into *settings* in a child process."""
    before = given.by_name()
    return {variable(name): str(value) for name, value in settings.by_name().items() if value != before[name]}


def _is_set(settings: Settings, name: str) -> bool:
    return name in getattr(settings, SECTION_OF[name]).model_fields_set


def _checkpoint(given: Settings) -> dict[str, object]:
    """Return the settings of the shipped checkpoint if none is configured; create a random one if it is missing."""
    directory = given.checkpoint_directory
    if given.model.checkpoint is not None or (directory / "config.json").is_file():
        return {}
    if not (CHECKPOINT / "config.json").is_file():
        _prelim("checkpoint", "random", str(directory))
        console.print("the demo checkpoint is missing: a random-weight one is used, and its reports mean nothing")
        return {}
    # Stored in bfloat16, which many CPUs compute slowly.
    dtype = {} if _is_set(given, "dtype") else {"dtype": "float32"}
    return {"checkpoint": CHECKPOINT, **dtype}


def _phantom_studies(settings: Settings, seed: int) -> tuple[list[Path], dict[str, str]]:
    """Return the folders of the studies, and their reference reports by Study Instance UID."""
    folder = settings.operations.data_dir / "demo" / f"studies-{seed}"
    made = write_demo_studies(folder, count=STUDIES, seed=seed)
    for study in made:
        reference_reports.write(settings.operations.data_dir, study.study_instance_uid, study.report)
    # Only the folders of DICOM files: the reference reports beside them are not sent.
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    return folders, {study.study_instance_uid: study.report for study in made}


def _reference_cases(settings: Settings) -> Path:
    folder = settings.operations.data_dir / "demo" / f"reference-{REFERENCE_CASES}"
    # Written last: if it is missing, an earlier run was interrupted and the folder is written again.
    if not (folder / CASES).is_file():
        console.print(f"drawing {REFERENCE_CASES} reference cases (first run only)")
        write_reference_cases(folder, count=REFERENCE_CASES, seed=0)
    return folder


def _reference_index(settings: Settings, folder: Path, environment: Mapping[str, str], stop: Stop) -> None:
    """Build the index unless this checkpoint has one, which may hold real cases; a stop signal ends the build."""
    digest = read_manifest(settings.checkpoint_directory).digest
    with transaction(settings.database()) as session:
        known = reference.current_snapshot(session, digest)
    if known is None:
        with _started(["index", "build", str(folder)], environment) as build:
            while build.poll() is None and not stop.stopping:
                time.sleep(POLL_SECONDS)
        if build.returncode != 0 and not stop.stopping:
            raise DemoFailed("`prelim index build` failed; its output is above")
        return
    try:
        ReferenceIndex(settings.operations.data_dir / known.directory, model_digest=digest)
    except ConfigurationError as problem:
        # Not rebuilt here: the index may hold real cases.
        advice = "while `prelim up` runs on this data folder, or set PRELIM_DATA_DIR to another one for the demo"
        raise ConfigurationError(f"{problem}, {advice}") from problem


def _prelim(*arguments: str) -> None:
    if subprocess.run([find_program("prelim"), *arguments], check=False).returncode != 0:
        raise DemoFailed(f"`prelim {' '.join(arguments)}` failed; its output is above")


@contextmanager
def _started(arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a prelim command while the block runs, and end it with the block."""
    process = subprocess.Popen([find_program("prelim"), *arguments], env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _watch(
    settings: Settings,
    launcher: Launcher,
    sender: subprocess.Popen[bytes],
    uids: Collection[str],
    table: DemoTable,
    *,
    leave: bool,
) -> int:
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    with Live(table.render(), console=console, refresh_per_second=4) as live:
        while not launcher.stopping:
            launcher.run_once()
            # Checked before the database is read: in the other order the last study could be missed.
            arrived = sender.poll() is not None and not any(received(Spool(settings.spool)))
            with transaction(settings.database()) as session:
                lines = overview.studies(session, uids)
                table.update(lines, _texts(session, lines))
            live.update(table.render())
            if leave and ((arrived and table.all_ended) or time.monotonic() > deadline):
                break
            time.sleep(REFRESH_SECONDS)
    return 0 if sender.poll() == 0 and table.all_reported else 1


def _demo_title(settings: Settings) -> Sequence[str]:
    """Return the option for an AE title that a demo checkpoint reports for; other checkpoints report for any."""
    return ["--called", settings.model.demo_ae_titles[0]] if settings.model.demo_ae_titles else []


def _texts(session: Session, lines: Sequence[StudyLine]) -> Mapping[uuid.UUID, str]:
    current = ((line.id, versions.current(session, line.id)) for line in lines if line.report)
    return {study: f"Findings: {row.findings} Impression: {row.impression}" for study, row in current if row}


def _study_uids(folders: Iterable[Path]) -> Iterator[str]:
    """Yield the Study Instance UIDs in *folders*; unreadable files are skipped, as the sender skips them."""
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                yield str(dcmread(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True).StudyInstanceUID)
            except (OSError, InvalidDicomError, AttributeError, RecursionError, ValueError):
                continue
