"""`prelim demo`: start everything, send studies from a process of their own, watch their reports appear."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from rich.console import Console
from rich.live import Live

from db import logs, overview
from db.errors import ConfigurationError, PrelimError
from db.session import transaction
from db.settings import load_settings
from deploy import welcome
from deploy.child import find_program
from deploy.demo.board import Board
from deploy.demo.studies import write_demo_studies, write_reference_cases
from deploy.launcher import running
from deploy.preflight import SERVERS, check, is_free
from deploy.server import free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from db.settings import Settings
    from deploy.launcher import Launcher

STUDIES = 8
REFERENCE_CASES = 64
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
    _checkpoint(settings)
    check(settings)
    folders = [studies] if studies else _made_up_studies(settings, secrets.randbelow(2**31) if seed is None else seed)
    with running(settings) as launcher:
        _reference_set(settings)
        welcome.greet(settings, launcher.say)
        status = _send_and_watch(settings, launcher, folders, leave=leave)
    return status if leave else launcher.exit_status


def _settings() -> Settings:
    """The configured settings, with a short settle time and free ports where nothing else was asked for."""
    os.environ.setdefault("PRELIM_SETTLE_SECONDS", SETTLE_SECONDS)
    # The table is what is to be seen; `prelim up` shows every process's lines.
    os.environ.setdefault("PRELIM_LOG_LEVEL", "warning")
    settings = load_settings()
    for host, name in SERVERS:
        variable = f"PRELIM_{name.upper()}"
        port = getattr(settings, name)
        if variable not in os.environ and not is_free(getattr(settings, host), port):
            os.environ[variable] = str(free_port())
            console.print(f"port {port} is taken: {variable}={os.environ[variable]}")
    return load_settings()


def _checkpoint(settings: Settings) -> None:
    directory = settings.checkpoint_directory
    if settings.checkpoint is None and not (directory / "config.json").is_file():
        _prelim("checkpoint", "random", str(directory))


def _made_up_studies(settings: Settings, seed: int) -> list[Path]:
    folder = settings.data_dir / "demo" / f"studies-{seed}"
    write_demo_studies(folder, count=STUDIES, seed=seed)
    # Beside them lies the truth, which nobody sends.
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _reference_set(settings: Settings) -> None:
    folder = settings.data_dir / "demo" / "reference"
    # Written last: without it an interrupted run left a part, which is written again.
    if not (folder / "cases.jsonl").is_file():
        write_reference_cases(folder, count=REFERENCE_CASES, seed=0)
    _prelim("reference", "build", str(folder))


def _prelim(*arguments: str) -> None:
    if subprocess.run([find_program("prelim"), *arguments], check=False).returncode != 0:
        raise DemoFailed(f"`prelim {' '.join(arguments)}` failed; its lines are above")


def _send_and_watch(settings: Settings, launcher: Launcher, folders: Sequence[Path], *, leave: bool) -> int:
    board = Board()
    uids = set(_study_uids(folders))
    sender = subprocess.Popen([find_program("prelim"), "send", *map(str, folders)])
    deadline = time.monotonic() + PATIENCE_SECONDS
    with Live(board.table(), console=console, refresh_per_second=4) as live:
        while not launcher.stopping:
            launcher.run_once()
            # First whether all has come in, then the look: the other way round the last study could be missed.
            arrived = sender.poll() is not None and not any((settings.spool / "inbox").glob("*.dcm"))
            with transaction(settings.database()) as session:
                board.update(overview.studies(session, uids))
            live.update(board.table())
            if leave and ((arrived and board.all_ended) or time.monotonic() > deadline):
                break
            time.sleep(REFRESH_SECONDS)
    sender.terminate()
    return 0 if sender.wait() == 0 and board.all_reported else 1


def _study_uids(folders: Iterable[Path]) -> Iterator[str]:
    """The studies that are going to be sent; what cannot be read is not."""
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                yield str(dcmread(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True).StudyInstanceUID)
            except (OSError, InvalidDicomError, AttributeError, RecursionError, ValueError):
                continue
