"""`prelim up`: every process of Prelim on one machine, started, watched and stopped together."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from db.errors import PrelimError
from deploy.embedded.accounts import require_linux
from deploy.embedded.databases import embedded
from deploy.launcher.backoff import Restarts
from deploy.launcher.child import Child, Lines
from deploy.launcher.processes import MIGRATE, PROCESSES
from deploy.launcher.signals import Interrupts, counted_interrupts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from db.settings import Settings
    from deploy.embedded.server_process import Server
    from deploy.launcher.processes import Process

LAUNCHER = "prelim"
POLL_SECONDS = 0.1
PROGRESS_SECONDS = 5.0
MIGRATE_SECONDS = 600.0
FORCED_STATUS = 130  # what a shell says of a program that Ctrl-C ended


class StartFailed(PrelimError):
    """Raised when a process ended, or stayed silent, before it was ready."""


class Launcher:
    """Starts *processes* in order and stops them in reverse; `running` adds the databases and the signals.

    `run_once` keeps them (and *servers*, which are running already) alive and must be called regularly from the
    thread that called `start`: the children end with that thread. `stopping` says that the operator wants an end;
    asked twice, it takes all grace away.
    """

    def __init__(
        self,
        processes: Sequence[Process],
        servers: Sequence[Server],
        settings: Settings,
        interrupts: Interrupts,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._interrupts = interrupts
        self._lines = Lines([LAUNCHER, *(process.name for process in processes)])
        self._environment = {"PRELIM_DATA_DIR": str(settings.data_dir.absolute()), **(environment or {})}
        self._processes = {process.name: process for process in processes}
        self._children = [Child(p.name, p.command, self._lines, self._environment) for p in processes]
        self._watched: list[Child | Server] = [*servers, *self._children]
        self._restarts = {watched.name: Restarts() for watched in self._watched}

    @property
    def stopping(self) -> bool:
        """Whether the operator asked for an end."""
        return self._interrupts.count > 0

    @property
    def exit_status(self) -> int:
        """0 after an orderly stop, FORCED_STATUS after one that the operator hurried."""
        return FORCED_STATUS if self._hurry() else 0

    def say(self, line: str) -> None:
        """Tell the operator."""
        self._lines.write(LAUNCHER, line)

    def migrate(self, command: Sequence[str]) -> None:
        """Run *command* to its end; raise StartFailed when it fails."""
        child = Child(LAUNCHER, command, self._lines, self._environment)
        child.start()
        deadline = time.monotonic() + MIGRATE_SECONDS
        while child.alive and time.monotonic() < deadline and not self.stopping:
            time.sleep(POLL_SECONDS)
        late = child.alive
        child.bury()
        if child.status != 0 and not self.stopping:
            after = f"took longer than {MIGRATE_SECONDS:.0f} s" if late else f"ended with status {child.status}"
            raise StartFailed(f"`{' '.join(command)}` {after}; its lines are above")

    def start(self) -> None:
        """Start all, and return when all are ready or the operator asks to stop; raises StartFailed."""
        for child in self._children:
            if not self.stopping:
                child.start()
                self._restarts[child.name].began()
        began = time.monotonic()
        for child in self._children:
            self._wait_until_ready(child, began)
        if not self.stopping:
            self.say("everything is ready; Ctrl-C stops it")

    def run(self) -> None:
        """Keep everything alive until the operator asks to stop."""
        while not self.stopping:
            self.run_once()
            time.sleep(POLL_SECONDS)

    def run_once(self) -> int:
        """Start again what has ended and waited its time; how many."""
        return sum(self._revive(watched) for watched in self._watched if not watched.alive)

    def stop(self) -> None:
        """Stop the processes, the last first; who does not go in its grace time is killed."""
        for child in reversed(self._children):
            if child.process is None:
                continue
            self.say(f"stopping {child.name}")
            if not child.end(self._processes[child.name].grace_seconds, self._hurry):
                self.say(f"{child.name} was killed")

    def _hurry(self) -> bool:
        return self._interrupts.count > 1

    def _wait_until_ready(self, child: Child, began: float) -> None:
        process = self._processes[child.name]
        shown = began
        while not self.stopping:
            self._raise_if_any_ended()
            if child.process and process.ready(self._settings, child.process.pid):
                self.say(f"{child.name} is ready ({time.monotonic() - began:.1f} s)")
                return
            now = time.monotonic()
            if now > began + process.ready_seconds:
                raise StartFailed(f"{child.name} is not ready after {process.ready_seconds:.0f} s; its lines are above")
            if now > shown + PROGRESS_SECONDS:
                shown = now
                self.say(f"waiting for {child.name} ({now - began:.0f} s)")
            time.sleep(POLL_SECONDS)

    def _raise_if_any_ended(self) -> None:
        for child in self._children:
            if not child.alive:
                child.bury()
                raise StartFailed(
                    f"{child.name} ended with status {child.status} before all were ready; its lines are above"
                )

    def _revive(self, watched: Child | Server) -> bool:
        restarts = self._restarts[watched.name]
        if restarts.due is None:
            self._announce_end(watched, restarts.plan())
        if restarts.due is None or time.monotonic() < restarts.due:
            return False
        try:
            watched.start()
        except PrelimError as error:
            self.say(f"{error}\ntrying again in {restarts.plan():.0f} s")
            return False
        restarts.began()
        return True

    def _announce_end(self, watched: Child | Server, pause: float) -> None:
        status = ""
        if isinstance(watched, Child):
            watched.bury()
            status = f" with status {watched.status}"
        self.say(f"{watched.name} ended{status}; starting it again {f'in {pause:.0f} s' if pause else 'now'}")


@contextmanager
def running(
    settings: Settings,
    *,
    processes: Sequence[Process] = PROCESSES,
    migration: Sequence[str] = MIGRATE,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Launcher]:
    """Everything `prelim up` runs, ready on entry and gone on exit.

    The block must call `run_once` now and then and leave when `stopping`: Ctrl-C, SIGTERM and SIGHUP are counted and
    interrupt nothing. *environment* is added to what the processes inherit; they must read the same *settings* from
    it. Raises StartFailed, ServerError, AlreadyRunning, ConfigurationError.
    """
    require_linux()
    with counted_interrupts() as interrupts, embedded(settings) as servers:
        launcher = Launcher(processes, servers, settings, interrupts, environment=environment)
        try:
            launcher.migrate(migration)
            launcher.start()
            yield launcher
        finally:
            launcher.stop()
