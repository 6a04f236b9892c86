"""A run of the tests does not depend on the settings of an installation in the shell that starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from db.environment import load_settings
from db.settings import Settings
from tests.conftest import REPOSITORY

#: An unknown setting, for which every command ends; a database of others; a name in lower case, which is read, too.
FOREIGN = {
    "PRELIM_OF_ANOTHER_RELEASE": "1",
    "PRELIM_DATABASE_URL": "postgresql+psycopg://prelim@127.0.0.1:1/patients",
    "prelim_data_dir": "/var/lib/prelim",
}


def test_no_setting_is_in_the_environment() -> None:
    assert [name for name in os.environ if name.upper().startswith("PRELIM_")] == []
    settings = load_settings(Path("/nonexistent"))
    assert settings.operations.database_url is None
    assert settings.operations.data_dir == Settings().operations.data_dir


def test_settings_of_the_outer_environment_do_not_change_a_run() -> None:
    test = f"{__file__}::{test_no_setting_is_in_the_environment.__name__}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    ran = subprocess.run(command, cwd=REPOSITORY, env=os.environ | FOREIGN, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout


def test_variables_of_the_tests_and_settings_of_their_processes_are_kept() -> None:
    names = ("TESTS_LONG", "TESTS_DATA_DIR", "PRELIM_DATA_DIR")
    code = f"import tests.conftest, os; print(*map(os.environ.get, {names}))"
    environment = os.environ | {"TESTS_LONG": "1", "PRELIM_TEST_DATA": "/data", "PRELIM_DATA_DIR": "/of/a/bench"}
    environment.pop("TESTS_DATA_DIR", None)
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )

    assert ran.stdout.split() == ["1", "/data", "/of/a/bench"]
