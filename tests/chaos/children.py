"""Run the real processes as forked children, with a fast engine and the faults that are injected from inside."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db import logs
from db.environment import load_settings
from db.jobs.celery_app import worker_arguments
from db.reports.versions import Draft, Shown
from db.settings import Settings
from deploy.spawn import PR_SET_PDEATHSIG
from dicom_listener import dispatch
from dicom_listener.receive.prefork import parent
from worker.process import build

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from db.settings import Settings
    from worker.pipeline.pipeline import StudyToReport

#: In the pixels of a study that kills the worker that reads it.
POISON = b"POISON"
#: In the pixels of a study whose report is never finished.
ENDLESS = b"ENDLESS"
#: While this file exists in the data folder, the listener's disk is full.
DISK_FULL = "chaos-disk-full"
#: Offset of a worker's clock in seconds, as text in this file of the data folder.
CLOCK = "chaos-clock"
#: In the pixels of a study that stalls the engine.
HUNG = b"HUNG"
#: In the pixels of a study that hangs its thread outside of the engine, as a decoder can.
STUCK = b"STUCK"
#: Before the process id of a worker: a file of the data folder made just before a poison study kills that worker.
POISONED = "chaos-poisoned-"
#: This file of the data folder holds the name of a file that the dispatchers' disk cannot read.
UNREADABLE = "chaos-unreadable"
#: In the environment of a child: the name of the machine that it believes to run on.
HOST = "CHAOS_HOST"
STEP_SECONDS = 0.03
STEPS = (1, 8)


def start(role: str, environment: Mapping[str, str], log: str) -> None:
    """Run *role* with *environment* and its output in *log*; the kernel kills it with its parent."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if host := environment.get(HOST):
        socket.gethostname = lambda: host  # type: ignore[assignment]
    settings = load_settings()
    logs.configure(settings)
    ROLES[role](settings)


def listen(settings: Settings) -> None:
    flag = str(settings.operations.data_dir / DISK_FULL)
    for name in ("writev", "pwrite", "fdatasync"):
        setattr(os, name, _failing(getattr(os, name), flag))
    parent.run(settings)


def index(settings: Settings) -> None:
    Path.open = _unreadable(Path.open, settings.operations.data_dir / UNREADABLE)  # type: ignore[method-assign]
    dispatch.run(settings)


def work(settings: Settings) -> None:
    _skew_clock(settings.operations.data_dir / CLOCK)
    build(settings, FakeWriter).worker_main(worker_arguments(settings))


ROLES: dict[str, Callable[[Settings], None]] = {"listener": listen, "dispatcher": index, "worker": work}


class FakeWriter:
    """Writes in well under a second, with progress on the way; reads every file, as the real one does."""

    def __init__(self, settings: Settings) -> None:
        self.info = {"slots": settings.queue.worker_slots}
        self._hung_since: float | None = None
        self._data_dir = settings.operations.data_dir

    @property
    def stalled_seconds(self) -> float:
        return 0.0 if self._hung_since is None else time.monotonic() - self._hung_since

    def write(self, study: StudyToReport, on_progress: Callable[[], None]) -> Draft:
        contents = [instance.path.read_bytes() for instance in study.instances]
        if any(HUNG in content for content in contents):
            self._hung_since = time.monotonic()
            threading.Event().wait()
        if any(STUCK in content for content in contents):
            threading.Event().wait()
        steps = random.randint(*STEPS)
        if any(ENDLESS in content for content in contents):
            steps = sys.maxsize
        for _ in range(steps):
            time.sleep(STEP_SECONDS)
            on_progress()
        if any(POISON in content for content in contents):
            (self._data_dir / f"{POISONED}{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Draft(
            findings=f"{len(contents)} images.",
            impression="Made by a fake engine.",
            basis=f"{len(contents)} of {len(contents)} images",
            prompt_version="chaos",
            model_digest="0" * 64,
            provenance={},
            images=[Shown(contents[0], "1.2.3", 0, "the first image", {})],
            limitations=[f"New in this version: {late}." for late in study.late_arrivals],
        )


def _failing(write: Callable[..., Any], flag: str) -> Callable[..., Any]:
    def full(*arguments: Any) -> Any:
        if os.path.exists(flag):  # noqa: PTH110 - once a write
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments)

    return full


def _unreadable(open_file: Callable[..., Any], flag: Path) -> Callable[..., Any]:
    def fails(path: Path, *arguments: Any, **named: Any) -> Any:
        if path != flag and flag.exists() and flag.read_text() == path.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return open_file(path, *arguments, **named)

    return fails


def _skew_clock(offset: Path) -> None:
    """Replace time.time in every module by a clock that can be stepped; leases must not depend on it."""
    true_time = time.time

    def skewed() -> float:
        return true_time() + float(offset.read_text() if offset.exists() else 0)

    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            if value is true_time and module is not sys.modules[__name__]:
                setattr(module, name, skewed)
