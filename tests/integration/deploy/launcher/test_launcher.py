from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis

from tests.polling import runs, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).parents[4]
PATH = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
NOWHERE = {"PRELIM_DATABASE_URL": "postgresql+psycopg://nowhere/none", "PRELIM_BROKER_URL": "redis://nowhere/0"}

#: Prints its process id, is ready at once, and records SIGTERM in the file `ended`.
HANDLES_SIGTERM = """
import os, pathlib, signal, sys, time
def end(*_):
    with open("ended", "a") as file:
        file.write(sys.argv[1] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path(sys.argv[1] + ".ready").touch()
print("pid", os.getpid(), flush=True)
while True:
    time.sleep(0.05)
"""
IGNORES_SIGTERM = HANDLES_SIGTERM.replace(
    "signal.signal(signal.SIGTERM, end)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
)
NEVER_READY = HANDLES_SIGTERM.replace("pathlib.Path(sys.argv[1] + '.ready').touch()", "").replace(
    '".ready"', '".other"'
)
FORKING = HANDLES_SIGTERM.replace(
    "while True:", "if os.fork() == 0: print('pid', os.getpid(), flush=True)\nwhile True:"
)
FAILING = "print('no checkpoint there'); raise SystemExit(7)"


class Launched:
    """A launcher in its own process, and its output so far."""

    def __init__(self, folder: Path, environment: dict[str, str], migration: str, table: dict[str, Any]) -> None:
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("launch.py"), migration, json.dumps(table)],
                cwd=folder,
                env={
                    **os.environ,
                    "PYTHONPATH": PATH,
                    "PRELIM_DATA_DIR": str(folder / "data"),
                    **environment,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def pids(self, name: str = r"\w+") -> list[int]:
        return [int(pid) for pid in re.findall(rf"^{name} +\| pid (\d+)$", self.text, re.MULTILINE)]

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.text or self.process.poll() is not None)
        assert text in self.text

    def wait_until_ready(self, *, processes: int) -> None:
        """Wait until all are ready, and for the lines with their process ids, which come later."""
        self.wait_for("everything is ready")
        wait_until(lambda: len(self.pids()) == processes)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    launched: list[Launched] = []
    # Inherited as ignored under nohup(1), which the launcher honours.
    sighup = signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def start(environment: dict[str, str] | None = None, migration: str = "", **table: dict[str, Any]) -> Launched:
        launched.append(Launched(tmp_path, NOWHERE if environment is None else environment, migration, table))
        return launched[-1]

    yield start
    signal.signal(signal.SIGHUP, sighup)
    for each in launched:
        each.process.kill()
        each.process.wait()


def test_every_line_names_its_process(launch: Callable[..., Launched]) -> None:
    launched = launch(first={"code": HANDLES_SIGTERM}, other_one={"code": HANDLES_SIGTERM})
    launched.wait_until_ready(processes=2)

    assert launched.end(signal.SIGINT) == 0
    assert all(re.match(r"(prelim   |first    |other_one) \| ", line) for line in launched.text.splitlines())
    assert len(launched.pids("first")) == len(launched.pids("other_one")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stop_signal_ends_all_processes_in_reverse_order(
    launch: Callable[..., Launched], tmp_path: Path, number: signal.Signals
) -> None:
    launched = launch(a={"code": HANDLES_SIGTERM}, b={"code": HANDLES_SIGTERM}, c={"code": HANDLES_SIGTERM})
    launched.wait_until_ready(processes=3)

    assert launched.end(number) == 0
    assert (tmp_path / "ended").read_text().split() == ["c", "b", "a"]
    assert not any(map(runs, launched.pids()))


def test_second_ctrl_c_kills_a_process_that_ignores_sigterm(launch: Callable[..., Launched]) -> None:
    launched = launch(a={"code": HANDLES_SIGTERM}, b={"code": IGNORES_SIGTERM, "grace_seconds": 100})
    launched.wait_until_ready(processes=2)

    launched.process.send_signal(signal.SIGINT)
    launched.wait_for("stopping b")  # two signals at once are one
    assert launched.end(signal.SIGINT) == 130
    assert "b was killed" in launched.text
    assert not any(map(runs, launched.pids()))


def test_process_that_exceeds_its_grace_time_is_killed(launch: Callable[..., Launched], tmp_path: Path) -> None:
    launched = launch(a={"code": HANDLES_SIGTERM}, b={"code": IGNORES_SIGTERM, "grace_seconds": 0.5})
    launched.wait_for("everything is ready")

    assert launched.end(signal.SIGINT) == 0
    assert "b was killed" in launched.text
    assert (tmp_path / "ended").read_text().split() == ["a"]


def test_children_of_a_process_end_with_it(launch: Callable[..., Launched]) -> None:
    launched = launch(a={"code": FORKING})
    launched.wait_until_ready(processes=2)

    launched.end(signal.SIGINT)

    assert not any(map(runs, launched.pids()))


def test_process_that_dies_is_restarted(launch: Callable[..., Launched]) -> None:
    launched = launch(a={"code": HANDLES_SIGTERM}, b={"code": HANDLES_SIGTERM})
    launched.wait_until_ready(processes=2)

    os.kill(launched.pids("b")[0], signal.SIGKILL)
    wait_until(lambda: len(launched.pids("b")) == 2)
    os.kill(launched.pids("b")[1], signal.SIGKILL)
    wait_until(lambda: len(launched.pids("b")) == 3)

    assert "b ended with status -9; restarting now" in launched.text
    assert "b ended with status -9; restarting in 1 s" in launched.text
    assert len(launched.pids("a")) == 1
    assert launched.end(signal.SIGINT) == 0


def test_process_that_hangs_is_killed_and_restarted(launch: Callable[..., Launched], tmp_path: Path) -> None:
    running = launch(one={"code": IGNORES_SIGTERM, "probed": True}, two={"code": HANDLES_SIGTERM})
    running.wait_until_ready(processes=2)
    hung = tmp_path / "one.hung"
    hung.touch()
    running.wait_for("one has not answered for")
    hung.unlink()
    # On a busy machine the second one may be killed, too, before the file is removed.
    wait_until(lambda: len(running.pids("one")) >= 2)
    assert not runs(running.pids("one")[0])
    assert len(running.pids("two")) == 1


def test_start_fails_and_names_a_process_that_is_never_ready(launch: Callable[..., Launched]) -> None:
    launched = launch(a={"code": HANDLES_SIGTERM}, b={"code": NEVER_READY, "ready_seconds": 1})

    assert launched.process.wait(30) == 1
    assert "b is not ready after 1 s" in launched.text
    assert len(launched.pids()) == 2
    assert not any(map(runs, launched.pids()))


def test_start_fails_at_once_when_a_process_ends_before_it_is_ready(launch: Callable[..., Launched]) -> None:
    launched = launch(a={"code": NEVER_READY, "ready_seconds": 100}, b={"code": FAILING})

    assert launched.process.wait(30) == 1
    assert "b      | no checkpoint there" in launched.text
    assert "b ended with status 7 before all were ready" in launched.text
    assert not any(map(runs, launched.pids()))


def test_failed_migration_starts_nothing(launch: Callable[..., Launched]) -> None:
    launched = launch(migration="raise SystemExit('no such table')", a={"code": HANDLES_SIGTERM})

    assert launched.process.wait(30) == 1
    assert "prelim | no such table" in launched.text
    assert "ended with status 1; its output is above" in launched.text
    assert launched.pids() == []


def test_ctrl_c_during_the_start_stops_started_processes(launch: Callable[..., Launched]) -> None:
    launched = launch(a={"code": HANDLES_SIGTERM}, b={"code": NEVER_READY, "ready_seconds": 100})
    wait_until(lambda: len(launched.pids()) == 2)

    assert launched.end(signal.SIGINT) == 0
    assert not any(map(runs, launched.pids()))


def test_no_process_outlives_a_killed_launcher(launch: Callable[..., Launched]) -> None:
    launched = launch({}, a={"code": HANDLES_SIGTERM}, b={"code": IGNORES_SIGTERM})
    launched.wait_until_ready(processes=2)
    servers = server_pids(launched)

    launched.end(signal.SIGKILL)

    assert len(servers) == 2
    wait_until(lambda: not any(map(runs, [*launched.pids(), *servers])))


def test_killed_databases_restart_on_their_ports_with_their_data(
    launch: Callable[..., Launched], tmp_path: Path
) -> None:
    launched = launch({}, a={"code": HANDLES_SIGTERM})
    launched.wait_for("everything is ready")
    services = json.loads((tmp_path / "data/run/services.json").read_text())
    database_url = services["database_url"].replace("+psycopg", "")
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    with redis.Redis.from_url(services["broker_url"]) as client:
        client.set("kept", 42)

    for pid in server_pids(launched):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: launched.text.count("server.started") == 4)

    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (42,)
    with redis.Redis.from_url(services["broker_url"]) as client:
        assert client.get("kept") == b"42"
    assert "postgres ended; restarting now" in launched.text
    assert "redis ended; restarting now" in launched.text
    assert launched.end(signal.SIGINT) == 0
    assert not any(map(runs, server_pids(launched)))


def test_other_commands_find_running_databases(launch: Callable[..., Launched], tmp_path: Path) -> None:
    launched = launch({}, a={"code": HANDLES_SIGTERM})
    launched.wait_for("everything is ready")
    services = tmp_path / "data/run/services.json"

    assert services.stat().st_mode & 0o777 == 0o600
    assert services.parent.stat().st_mode & 0o777 == (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert json.loads(services.read_text()).keys() == {"database_url", "broker_url"}
    launched.end(signal.SIGINT)
    assert not services.exists()


def test_database_named_by_a_setting_is_not_started(launch: Callable[..., Launched], tmp_path: Path) -> None:
    launched = launch({"PRELIM_DATABASE_URL": NOWHERE["PRELIM_DATABASE_URL"]}, a={"code": HANDLES_SIGTERM})
    launched.wait_for("everything is ready")

    assert json.loads((tmp_path / "data/run/services.json").read_text()).keys() == {"broker_url"}
    assert not (tmp_path / "data/postgres").exists()
    assert launched.end(signal.SIGINT) == 0


def test_second_launcher_on_a_data_folder_is_refused(launch: Callable[..., Launched], tmp_path: Path) -> None:
    first = launch(a={"code": HANDLES_SIGTERM})
    first.wait_for("everything is ready")
    text = first.text
    pid = first.process.pid

    second = launch(a={"code": HANDLES_SIGTERM})

    assert second.process.wait(30) == 1
    assert f"process {pid} already uses {tmp_path / 'data'}" in second.text
    assert "everything is ready" in text
    assert first.end(signal.SIGINT) == 0


def test_launcher_stops_in_order_after_its_output_pipe_is_closed(tmp_path: Path) -> None:
    table = json.dumps({"a": {"code": HANDLES_SIGTERM}})
    launcher = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("launch.py"), "", table],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": PATH, "PRELIM_DATA_DIR": str(tmp_path / "data"), **NOWHERE},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert launcher.stdout
    launcher.stdout.close()
    wait_until((tmp_path / "a.ready").exists)

    launcher.send_signal(signal.SIGTERM)
    launcher.wait(30)

    assert (tmp_path / "ended").read_text().split() == ["a"]


def server_pids(launched: Launched) -> list[int]:
    return [int(pid) for pid in re.findall(r"server.started\b.*\bpid=(\d+)", launched.text)]
