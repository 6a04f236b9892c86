from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from db.release import release
from deploy.cli import app
from deploy.cli.durations import duration
from deploy.launcher.role_probe import ROLES
from deploy.operate import study_actions

if TYPE_CHECKING:
    from collections.abc import Sequence

REPOSITORY = Path(__file__).parents[4]
#: Imported by one process each; every command would start later with all of them.
HEAVY = ("torch", "faiss", "celery", "fastapi", "pydicom", "pynetdicom", "numpy")

OWN = {"deploy", "db", "dicom_listener"}
#: A command that prints at its end the modules, the CPU time and the most memory that it has used.
MEASURED = """
import atexit, sys, time
def report():
    peak = open("/proc/self/status").read().split("VmHWM:")[1].split()[0]
    print(" ".join(sys.modules), time.process_time(), peak, sep="\\n")
atexit.register(report)
from deploy.cli.entry import main
main()
"""
#: Imported by Python itself, for an installation that can be edited and for old packages.
ALWAYS = {"__main__", "_distutils_hack", "__editable___prelim_0_1_0_finder"}


def run(*arguments: str, code: str = "from deploy.cli.app import main; main()") -> subprocess.CompletedProcess[str]:
    command: Sequence[str] = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)


def test_command_line_imports_no_process_before_its_command_runs() -> None:
    code = f"import deploy.cli.app, sys; print([name for name in {HEAVY} if name in sys.modules])"

    assert run(code=code).stdout.strip() == "[]"


@pytest.mark.parametrize("role", ROLES)
def test_health_check_imports_only_the_standard_library_and_is_cheap(tmp_path: Path, role: str) -> None:
    """Containers check it every few seconds."""
    environment = os.environ | {"PRELIM_DATA_DIR": str(tmp_path), "PRELIM_API_PORT": "9", "PRELIM_FLOWER_PORT": "9"}
    command = [sys.executable, "-c", MEASURED, "ready", role]

    check = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)

    cause, modules, seconds, peak = check.stdout.splitlines()
    assert (check.returncode, cause.startswith(f"{role} is not ready: ")) == (1, True)
    assert int(peak) < 20_000, "kB"
    # Half of it is the start of Python; other programs on the same core add to it.
    assert float(seconds) < 0.1
    packages = {name.partition(".")[0] for name in modules.split()} - sys.stdlib_module_names
    assert packages <= OWN | ALWAYS, packages
    assert not set(modules.split()) & {"ssl", "http", "asyncio", "subprocess", "email"}


def test_listener_is_ready_with_a_fresh_status_file(tmp_path: Path) -> None:
    environment = os.environ | {"PRELIM_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "deploy.cli.entry", "ready", "listener"]
    for status in (1, 0):
        finished = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
        assert finished.returncode == status, finished.stderr
        slot = tmp_path / "spool" / "slots" / "host-0"
        slot.mkdir(parents=True, exist_ok=True)
        (slot / "listener.json").write_text(json.dumps({"process": f"{socket.gethostname()}:1", "parent": None}))


def test_expected_error_is_one_line_and_status_2() -> None:
    finished = run("ready", "listner")

    assert finished.returncode == 2
    assert finished.stderr.startswith("error: unknown process listner")
    assert finished.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--images", "--pictures"])
def test_images_option_also_has_its_old_name(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    monkeypatch.setattr(study_actions, "show", lambda *arguments: given.append(arguments[-1]))

    assert CliRunner().invoke(app.app, ["show", "study", option, "sheet.png"]).exit_code == 0
    assert given == [Path("sheet.png")]


def test_old_option_name_is_hidden() -> None:
    assert "--pictures" not in CliRunner().invoke(app.app, ["show", "--help"]).output


def test_version_is_one_line() -> None:
    assert CliRunner().invoke(app.app, ["--version"]).output == f"prelim {release()}\n"


@pytest.mark.parametrize("command", [[], ["key"], ["send"], ["key", "create"], ["evaluate"]])
def test_help_shows_flags_without_a_type(command: list[str]) -> None:
    output = CliRunner().invoke(app.app, [*command, "--help"]).output

    assert "--help" in output
    assert "bool" not in output


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("evaluate --checkpoint x --phantoms 1 --task question --controls", "measures reports only"),
        ("evaluate --checkpoint x --phantoms 1 --reference y", "reference cases of its own"),
        ("calibrate --task question --suspend drift --from phantoms", "or --suspend"),
    ],
)
def test_option_without_effect_is_refused(command: str, problem: str) -> None:
    found = CliRunner().invoke(app.app, command.split(), env={"COLUMNS": "200"})

    assert found.exit_code == 2
    assert problem in found.output


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--key", "k.pem"], "--key needs --cert"),
        (["--no-tls", "--cert", "c.pem"], "contradicts"),
        (["--cert", "missing.pem"], "cannot be loaded"),
    ],
)
@pytest.mark.parametrize("command", [["echo"], ["send", "."], ["commit", "."]])
def test_invalid_tls_options_are_rejected(command: list[str], options: list[str], problem: str) -> None:
    result = CliRunner().invoke(app.app, [*command, *options])

    assert result.exit_code != 0
    assert problem in f"{result.output} {result.exception}"


@pytest.mark.parametrize(("text", "hours"), [("90m", 1.5), ("24h", 24), ("30d", 720), (" 1H ", 1)])
def test_durations_have_a_unit(text: str, hours: float) -> None:
    assert duration(text).total_seconds() == hours * 3600


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "0d", "1.5h", "999999d", "1w"])
def test_other_durations_are_rejected(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="90m"):
        duration(text)


@pytest.mark.parametrize("arguments", [("doctor", "--json"), ("status", "--json"), ("trace", "x", "--json")])
def test_output_for_programs_has_no_log_line_while_the_database_is_away(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PRELIM_DATABASE_URL", "postgresql+psycopg://u:correct-horse-battery@127.0.0.1:1/d")
    monkeypatch.setenv("PRELIM_DATA_DIR", str(tmp_path))
    ran = run(*arguments)

    assert ran.returncode == 2
    assert "database.unreachable" not in ran.stdout
    assert "database.unreachable" in ran.stderr
    assert not ran.stdout.strip() or json.loads(ran.stdout)["status"] == "fault"
