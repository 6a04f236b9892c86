"""The scratch folder of a verification is removed when its command ends, and after it was killed by the next one."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from deploy.operate.backup import scratch_folder
from tests.conftest import REPOSITORY
from tests.integration.deploy.operate.restore.place import back_up, key_file

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings
    from deploy.operate.backup.repository import Repository

#: Wait, as a restore of many files does, once the first file of a patient is in the scratch folder.
WAIT = """
import signal
# Ignored, and left so, where the tests run under nohup.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from deploy.operate.backup import restore
def compare(*_):
    print("restoring", flush=True)
    signal.pause()
restore._compare = compare
from deploy.cli import app
app.main()
"""


@pytest.fixture
def verification(settings: Settings, repository: Repository, tmp_path: Path) -> list[str]:
    """The arguments of a verification, which stops at its first file."""
    back_up(settings, repository)
    (tmp_path / "scratch").mkdir()
    given = ["--key-file", key_file(tmp_path), "--verify", "--scratch", str(tmp_path / "scratch")]
    return [sys.executable, "-c", WAIT, "restore", str(tmp_path / "backups"), *given]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_stop_signal_removes_the_files_of_patients(
    number: signal.Signals, verification: list[str], tmp_path: Path, database_url: str
) -> None:
    status = _signalled(verification, tmp_path, database_url, number)

    assert status == scratch_folder.SIGNALLED + number
    assert list((tmp_path / "scratch").iterdir()) == []


def test_folder_of_a_killed_verification_is_deleted_by_the_next_one(
    verification: list[str], tmp_path: Path, database_url: str
) -> None:
    _signalled(verification, tmp_path, database_url, signal.SIGKILL)
    (left,) = (tmp_path / "scratch").iterdir()
    assert list(left.rglob("*.restored")), "the test needs a file of a patient"
    assert scratch_folder.abandoned(tmp_path / "scratch") == [left]

    with scratch_folder.scratch(tmp_path / "scratch") as own:
        assert list((tmp_path / "scratch").iterdir()) == [own]
        assert scratch_folder.abandoned(tmp_path / "scratch") == []


def test_folder_in_use_and_a_new_one_are_left_alone(tmp_path: Path) -> None:
    new, used = tmp_path / "prelim-restore-new", tmp_path / "prelim-restore-used"
    for folder in (new, used):
        folder.mkdir()
    with (used / scratch_folder.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert scratch_folder.abandoned(tmp_path) == []
    os.utime(new, (0, 0))
    assert scratch_folder.abandoned(tmp_path) == [new, used]


def _signalled(command: list[str], tmp_path: Path, url: str, number: signal.Signals) -> int:
    """Send a signal to a verification that has restored a file; return its exit status."""
    variables = os.environ | {"PRELIM_DATA_DIR": str(tmp_path / "data"), "PRELIM_DATABASE_URL": url}
    with subprocess.Popen(command, env=variables, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "restoring" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        return process.wait()
