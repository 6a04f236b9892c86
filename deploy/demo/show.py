"""`prelim demo`: start everything, send studies from a process of their own, watch their reports appear."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from contextlib import closing
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from db import logs, overview
from db.errors import PrelimError
from db.session import transaction
from db.settings import load_settings
from deploy import welcome
from deploy.child import find_program
from deploy.demo.board import Board
from deploy.demo.studies import write_demo_studies, write_reference_cases
from deploy.launcher import running

if TYPE_CHECKING:
    from collections.abc import Sequence
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
console = Console()


class DemoFailed(PrelimError):
    """Raised when a step of the demo ended badly; its own lines say why."""


def show(*, studies: Path | None, seed: int | None, leave: bool) -> int:
    """Run the demo; with *leave* it ends by itself, with 0 when every study has its report and 1 when one has not."""
    settings = _settings()
    logs.configure(settings)
    seed = secrets.randbelow(2**31) if seed is None else seed
    _checkpoint(settings)
    folders = [studies] if studies else _made_up_studies(settings, seed)
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
    for name in ("dicom_port", "api_port", "flower_port"):
        variable = f"PRELIM_{name.upper()}"
        if variable not in os.environ and not _free(port := getattr(settings, name)):
            os.environ[variable] = str(_any_port())
            console.print(f"port {port} is taken: {variable}={os.environ[variable]}", highlight=False)
    return load_settings()


def _free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        # As the servers do: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _any_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _checkpoint(settings: Settings) -> None:
    if settings.checkpoint is None and not settings.checkpoint_directory.exists():
        _prelim("checkpoint", "random", str(settings.checkpoint_directory))


def _made_up_studies(settings: Settings, seed: int) -> list[Path]:
    folder = settings.data_dir / "demo" / f"studies-{seed}"
    write_demo_studies(folder, count=STUDIES, seed=seed)
    # Beside them lies the truth, which nobody sends.
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _reference_set(settings: Settings) -> None:
    folder = settings.data_dir / "demo" / "reference"
    if not folder.exists():
        write_reference_cases(folder, count=REFERENCE_CASES, seed=0)
    _prelim("reference", "build", str(folder))


def _prelim(*arguments: str) -> None:
    if subprocess.run([find_program("prelim"), *arguments], check=False).returncode != 0:
        raise DemoFailed(f"`prelim {' '.join(arguments)}` failed; its lines are above")


def _send_and_watch(settings: Settings, launcher: Launcher, folders: Sequence[Path], *, leave: bool) -> int:
    board = Board()
    sender = subprocess.Popen([find_program("prelim"), "send", *map(str, folders)])
    deadline = None
    with Live(board.table(), console=console, refresh_per_second=4) as live:
        while not launcher.stopping:
            launcher.run_once()
            with transaction(settings.database()) as session:
                board.update(overview.page(session, limit=100).studies)
            live.update(board.table())
            sent = sender.poll() is not None and not any((settings.spool / "inbox").glob("*.dcm"))
            if sent and board.all_ended:
                if leave:
                    break
            elif sent and deadline is None:
                deadline = time.monotonic() + PATIENCE_SECONDS
            elif deadline is not None and time.monotonic() > deadline and leave:
                break
            time.sleep(REFRESH_SECONDS)
    sender.wait()
    return 0 if board.all_reported else 1
