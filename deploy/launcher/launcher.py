"""Run every process of Prelim on one machine (`prelim up`): start, watch, restart and stop them together."""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from db.errors import PrelimError
from deploy.embedded.accounts import require_linux
from deploy.embedded.databases import embedded
from deploy.launcher.backoff import Restarts
from deploy.launcher.child import Child, Lines
from deploy.launcher.probe import Probe
from deploy.launcher.processes import MIGRATE, PROCESSES, configured
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
FORCED_STATUS = 130  # a shell's status of a program that Ctrl-C ended


class StartFailed(PrelimError):
    """Raised when a process ended or timed out before it was ready."""


class Launcher:
    """Supervisor that starts *processes* in order and stops them in reverse; `running` adds databases and signals.

    `run_once` restarts ended processes and *servers* (which are running already); call it regularly from the thread
    that called `start`, because the children end with that thread. The first stop signal sets `stopping`; the second
    ends all grace times.
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
        self._environment = {"PRELIM_DATA_DIR": str(settings.operations.data_dir.absolute()), **(environment or {})}
        self._processes = {process.name: process for process in processes}
        self._children = [Child(p.name, p.command, self._lines, self._environment) for p in processes]
        self._watched: list[Child | Server] = [*servers, *self._children]
        self._restarts = {watched.name: Restarts() for watched in self._watched}
        self._probes = {
            process.name: Probe(partial(process.probe, settings), process.ready_seconds)
            for process in processes
            if process.probe is not None
        }

    @property
    def stopping(self) -> bool:
        """True after a stop signal."""
        return self._interrupts.count > 0

    @property
    def exit_status(self) -> int:
        """0 after an orderly stop, FORCED_STATUS after a second stop signal."""
        return FORCED_STATUS if self._force() else 0

    def print_line(self, line: str) -> None:
        """Print *line* under the launcher's own name."""
        self._lines.write(LAUNCHER, line)

    def migrate(self, command: Sequence[str]) -> None:
        """Run *command* and wait for its end; raise StartFailed if it fails."""
        child = Child(LAUNCHER, command, self._lines, self._environment)
        child.start()
        deadline = time.monotonic() + MIGRATE_SECONDS
        while child.alive and time.monotonic() < deadline and not self.stopping:
            time.sleep(POLL_SECONDS)
        timed_out = child.alive
        child.reap()
        if child.status != 0 and not self.stopping:
            after = f"took longer than {MIGRATE_SECONDS:.0f} s" if timed_out else f"ended with status {child.status}"
            raise StartFailed(f"`{' '.join(command)}` {after}; its output is above")

    def start(self) -> None:
        """Start all processes; return when all are ready or on a stop signal. Raises StartFailed."""
        for child in self._children:
            if not self.stopping:
                child.start()
                self._restarts[child.name].record_start()
        started = time.monotonic()
        for child in self._children:
            self._wait_until_ready(child, started)
        if self.stopping:
            return
        for probe in self._probes.values():
            probe.start()
        self.print_line("everything is ready; press Ctrl-C to stop")

    def run(self) -> None:
        """Restart ended processes until a stop signal."""
        while not self.stopping:
            self.run_once()
            time.sleep(POLL_SECONDS)

    def run_once(self) -> int:
        """Kill processes that hang and restart ended ones whose pause is over; return the number of restarts."""
        self._kill_hung()
        return sum(self._restart(watched) for watched in self._watched if not watched.alive)

    def stop(self) -> None:
        """Stop the processes in reverse order; kill those that exceed their grace time."""
        for probe in self._probes.values():
            probe.stop()
        for child in reversed(self._children):
            if child.process is None:
                continue
            self.print_line(f"stopping {child.name}")
            if not child.end(self._processes[child.name].grace_seconds, self._force):
                self.print_line(f"{child.name} was killed")

    def _force(self) -> bool:
        return self._interrupts.count > 1

    def _wait_until_ready(self, child: Child, started: float) -> None:
        process = self._processes[child.name]
        shown = started
        while not self.stopping:
            self._raise_if_any_ended()
            if child.process and process.ready(self._settings, child.process.pid):
                self.print_line(f"{child.name} is ready ({time.monotonic() - started:.1f} s)")
                return
            now = time.monotonic()
            if now > started + process.ready_seconds:
                raise StartFailed(f"{child.name} is not ready after {process.ready_seconds:.0f} s; its output is above")
            if now > shown + PROGRESS_SECONDS:
                shown = now
                self.print_line(f"waiting for {child.name} ({now - started:.0f} s)")
            time.sleep(POLL_SECONDS)

    def _raise_if_any_ended(self) -> None:
        for child in self._children:
            if not child.alive:
                child.reap()
                raise StartFailed(
                    f"{child.name} ended with status {child.status} before all were ready; its output is above"
                )

    def _kill_hung(self) -> None:
        for child in self._children:
            probe = self._probes.get(child.name)
            if probe is not None and probe.hung and child.alive:
                self.print_line(f"{child.name} has not answered for {probe.silent_seconds:.0f} s and is killed")
                child.reap()

    def _restart(self, watched: Child | Server) -> bool:
        restarts = self._restarts[watched.name]
        if restarts.due is None:
            self._print_end(watched, restarts.schedule())
        if restarts.due is None or time.monotonic() < restarts.due:
            return False
        try:
            watched.start()
        except PrelimError as error:
            self.print_line(f"{error}\ntrying again in {restarts.schedule():.0f} s")
            return False
        restarts.record_start()
        if watched.name in self._probes:
            self._probes[watched.name].restart()
        return True

    def _print_end(self, watched: Child | Server, pause: float) -> None:
        status = ""
        if isinstance(watched, Child):
            watched.reap()
            status = f" with status {watched.status}"
        self.print_line(f"{watched.name} ended{status}; restarting {f'in {pause:.0f} s' if pause else 'now'}")


@contextmanager
def running(
    settings: Settings,
    *,
    processes: Sequence[Process] = PROCESSES,
    migration: Sequence[str] = MIGRATE,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Launcher]:
    """Run everything that `prelim up` runs: ready on entry, stopped on exit.

    The block must call `run_once` regularly and return when `stopping`: Ctrl-C, SIGTERM and SIGHUP are counted and
    interrupt nothing. *environment* is added to the inherited one; the processes must read the same *settings* from
    it. Raises StartFailed, ServerError, AlreadyRunning, ConfigurationError.
    """
    require_linux()
    processes = configured(processes, settings)
    with counted_interrupts() as interrupts, embedded(settings) as servers:
        launcher = Launcher(processes, servers, settings, interrupts, environment=environment)
        try:
            launcher.migrate(migration)
            launcher.start()
            yield launcher
        finally:
            launcher.stop()
