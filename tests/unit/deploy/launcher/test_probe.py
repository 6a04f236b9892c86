"""A process hangs after several failed probes over a generous time, never after one or a short time."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from db.settings import Settings
from deploy.embedded.server_process import free_port
from deploy.launcher import probe, processes
from deploy.launcher.probe import Probe
from tests.polling import wait_until

if TYPE_CHECKING:
    from pathlib import Path

LISTEN = "from deploy.cli.app import main; import sys; sys.argv[1:] = ['listen']; main()"


class Clock:
    """Monotonic clock that the test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(probe, "time", clock)
    return clock


def failing(probed: Probe, clock: Clock, times: int, seconds: float) -> bool:
    """Return whether *probed* hangs after failed probes over *seconds*."""
    for _ in range(times):
        clock.now += seconds / times
        probed.run_once()
    return probed.hung


def test_silence_counts_only_with_failed_probes(clock: Clock) -> None:
    answering = Probe(lambda: True, 60)
    answering.run_once()
    clock.now += 1000
    assert not answering.hung, "the machine was suspended"


def test_process_hangs_after_several_failures_over_a_long_time(clock: Clock) -> None:
    probed = Probe(lambda: False, 60)
    probed._answered = True
    assert not failing(probed, clock, 20, probe.HANG_SECONDS - 1)
    assert failing(probed, clock, 1, 2)


def test_one_answer_begins_the_time_again(clock: Clock) -> None:
    answers = iter([False] * 20 + [True] + [False] * 4)
    probed = Probe(lambda: next(answers), 60)
    probed._answered = True
    assert failing(probed, clock, 20, 200)
    assert not failing(probed, clock, 5, 50)


def test_restarted_process_may_take_its_time_to_start(clock: Clock) -> None:
    probed = Probe(lambda: False, 900)
    assert not failing(probed, clock, 50, 899)
    assert failing(probed, clock, 1, 2)


def test_stopped_listener_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PROBE_SECONDS", 0.5)
    settings = Settings(dicom_port=free_port(), data_dir=tmp_path)
    environment = {"PRELIM_DICOM_PORT": str(settings.dicom.dicom_port), "PRELIM_DATA_DIR": str(tmp_path)}
    listener = subprocess.Popen(
        [sys.executable, "-c", LISTEN], env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: processes.probe_listener(settings))
        listener.send_signal(signal.SIGSTOP)
        assert not processes.probe_listener(settings)
        listener.send_signal(signal.SIGCONT)
        wait_until(lambda: processes.probe_listener(settings))
    finally:
        listener.terminate()
        _, written = listener.communicate()
    assert "PRELIM-CHECK" not in written


def test_server_that_only_accepts_answers_no_tls_handshake() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        assert processes.accepts_tcp("127.0.0.1", port)
        assert not processes.answers_tls("127.0.0.1", port, 0.3)
