"""`prelim demo`: start everything, send studies from a process of their own, watch their reports appear."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from rich.console import Console
from rich.live import Live

from db import logs, reference, truth
from db.environment import load_settings
from db.errors import ConfigurationError, PrelimError
from db.operations import overview
from db.reports import versions
from db.session import transaction
from deploy.demo.table import Board
from deploy.embedded.server_process import free_port
from deploy.launcher import addresses
from deploy.launcher.child import find_program
from deploy.launcher.launcher import running
from deploy.operate.preflight import SERVERS, check, is_free
from worker.model.checkpoint.digest import checkpoint_digest, is_demo
from worker.phantoms.datasets import REFERENCE_CASES, write_demo_studies, write_reference_cases
from worker.retrieval.cases import CASES

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlalchemy.orm import Session

    from db.operations.overview import StudyLine
    from db.settings import Settings
    from deploy.launcher.launcher import Launcher

STUDIES = 8
#: Shipped with Prelim; made by `make demo-checkpoint`.
CHECKPOINT = Path(__file__).parent / "checkpoint"
#: A folder of single files has no late images: a short quiet time shows reports sooner.
SETTLE_SECONDS = "2"
#: Longest wait for a report after the last study was sent, in seconds; a laptop writes one in about a second.
PATIENCE_SECONDS = 600
REFRESH_SECONDS = 0.5
console = Console(markup=False, highlight=False)


class DemoFailed(PrelimError):
    """Raised when a step of the demo ended badly; its own lines say why."""


def show(*, studies: Path | None, seed: int | None, leave: bool) -> int:
    """Run the demo; with *leave* it ends by itself, with 0 when every study has its report and 1 when one has not."""
    if studies is not None and not studies.is_dir():
        raise ConfigurationError(f"{studies} is no folder: name one with DICOM files")
    settings = _settings()
    logs.configure(settings)
    settings = _checkpoint(settings)
    check(settings)
    if studies and is_demo(settings.checkpoint_directory):
        console.print("a demo checkpoint knows phantoms only: what it writes about other images means nothing")
    truths: dict[str, str] = {}
    folders = [studies] if studies else []
    if not studies:
        folder, truths = _made_up_studies(settings, secrets.randbelow(2**31) if seed is None else seed)
        # Beside them lies the truth, which nobody sends.
        folders = sorted(path for path in folder.iterdir() if path.is_dir())
    references = _reference_cases(settings)
    with running(settings) as launcher:
        _reference_index(settings, references)
        addresses.print_addresses(settings, launcher.print_line)
        status = _send_and_watch(settings, launcher, folders, Board(truths), leave=leave)
    return status if leave else launcher.exit_status


def _settings() -> Settings:
    """The configured settings, with a short settle time and free ports where nothing else was asked for."""
    os.environ.setdefault("PRELIM_SETTLE_SECONDS", SETTLE_SECONDS)
    # The table is what is to be seen; `prelim up` shows every process's lines.
    os.environ.setdefault("PRELIM_LOG_LEVEL", "warning")
    values = load_settings().by_name()
    for host, name in SERVERS:
        variable = f"PRELIM_{name.upper()}"
        port = values[name]
        if variable not in os.environ and not is_free(values[host], port):
            os.environ[variable] = str(free_port())
            console.print(f"port {port} is taken: {variable}={os.environ[variable]}")
    return load_settings()


def _checkpoint(settings: Settings) -> Settings:
    """The settings with a checkpoint: the configured one, else the one shipped, else one of random numbers."""
    directory = settings.checkpoint_directory
    if settings.model.checkpoint is None and not (directory / "config.json").is_file():
        if not (CHECKPOINT / "config.json").is_file():
            _prelim("checkpoint", "random", str(directory))
            console.print("the demo checkpoint is missing: a random one is used, and its words mean nothing")
            return settings
        os.environ["PRELIM_CHECKPOINT"] = str(CHECKPOINT)
        # It is stored in bfloat16, in which many processors are slow.
        os.environ.setdefault("PRELIM_DTYPE", "float32")
    return load_settings()


def _made_up_studies(settings: Settings, seed: int) -> tuple[Path, dict[str, str]]:
    """The folder of studies, and their true reports by Study Instance UID."""
    folder = settings.operations.data_dir / "demo" / f"studies-{seed}"
    made = write_demo_studies(folder, count=STUDIES, seed=seed)
    for study in made:
        truth.write(settings.operations.data_dir, study.study_instance_uid, study.report)
    return folder, {study.study_instance_uid: study.report for study in made}


def _reference_cases(settings: Settings) -> Path:
    folder = settings.operations.data_dir / "demo" / f"reference-{REFERENCE_CASES}"
    # Written last: without it an interrupted run left a part, which is written again.
    if not (folder / CASES).is_file():
        console.print(f"drawing {REFERENCE_CASES} earlier cases, once")
        write_reference_cases(folder, count=REFERENCE_CASES, seed=0)
    return folder


def _reference_index(settings: Settings, folder: Path) -> None:
    """Build the index unless this checkpoint has one: it may be of real cases."""
    digest = checkpoint_digest(settings.checkpoint_directory)
    with transaction(settings.database()) as session:
        known = reference.current_snapshot(session, digest)
    if known is None:
        _prelim("reference", "build", str(folder))
        return
    # Imports torch, which the demo's own process does not need otherwise.
    from worker.retrieval.index import ReferenceIndex  # noqa: PLC0415 - see above

    try:
        ReferenceIndex(settings.operations.data_dir / known.directory, model_digest=digest)
    except ConfigurationError as problem:
        # The index may be of real cases: it is not for the demo to build another over it.
        another = "while `prelim up` runs on this data folder, or name the demo another one with PRELIM_DATA_DIR"
        raise ConfigurationError(f"{problem}, {another}") from problem


def _prelim(*arguments: str) -> None:
    if subprocess.run([find_program("prelim"), *arguments], check=False).returncode != 0:
        raise DemoFailed(f"`prelim {' '.join(arguments)}` failed; its lines are above")


def _send_and_watch(
    settings: Settings, launcher: Launcher, folders: Sequence[Path], board: Board, *, leave: bool
) -> int:
    uids = set(_study_uids(folders))
    sender = subprocess.Popen([find_program("prelim"), "send", *_to_a_demo(settings), *map(str, folders)])
    deadline = time.monotonic() + PATIENCE_SECONDS
    with Live(board.table(), console=console, refresh_per_second=4) as live:
        while not launcher.stopping:
            launcher.run_once()
            # First whether all has come in, then the look: the other way round the last study could be missed.
            arrived = sender.poll() is not None and not any((settings.spool / "inbox").glob("*.dcm"))
            with transaction(settings.database()) as session:
                lines = overview.studies(session, uids)
                board.update(lines, _texts(session, lines))
            live.update(board.table())
            if leave and ((arrived and board.all_ended) or time.monotonic() > deadline):
                break
            time.sleep(REFRESH_SECONDS)
    sender.terminate()
    return 0 if sender.wait() == 0 and board.all_reported else 1


def _to_a_demo(settings: Settings) -> Sequence[str]:
    """The AE title that a demo checkpoint writes for; a real one writes for any."""
    return ["--called", settings.model.demo_ae_titles[0]] if settings.model.demo_ae_titles else []


def _texts(session: Session, lines: Sequence[StudyLine]) -> Mapping[uuid.UUID, str]:
    current = ((line.id, versions.current(session, line.id)) for line in lines if line.report)
    return {study: f"Findings: {row.findings} Impression: {row.impression}" for study, row in current if row}


def _study_uids(folders: Iterable[Path]) -> Iterator[str]:
    """The studies that are going to be sent; what cannot be read is not."""
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                yield str(dcmread(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True).StudyInstanceUID)
            except (OSError, InvalidDicomError, AttributeError, RecursionError, ValueError):
                continue
