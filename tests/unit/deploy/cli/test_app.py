from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.operate import study_actions

if TYPE_CHECKING:
    from collections.abc import Sequence

REPOSITORY = Path(__file__).parents[4]
#: Imported by one process each; every command would start later with all of them.
HEAVY = ("torch", "faiss", "celery", "fastapi", "pydicom", "pynetdicom", "numpy")


def run(*arguments: str, code: str = "from deploy.cli.app import main; main()") -> subprocess.CompletedProcess[str]:
    command: Sequence[str] = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)


def test_command_line_imports_no_process_before_its_command_runs() -> None:
    code = f"import deploy.cli.app, sys; print([name for name in {HEAVY} if name in sys.modules])"

    assert run(code=code).stdout.strip() == "[]"


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
