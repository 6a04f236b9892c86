"""The limit of open files is raised at the start; a low one is named."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from deploy.embedded.server_process import free_port
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

#: In a process of its own: a lowered hard limit stays.
PROGRAM = """
import resource
from deploy.cli import startup
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
startup.process_settings()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(("soft", "hard", "raised", "warns"), [(256, 1024, "1024", True), (1024, 5000, "5000", False)])
def test_soft_limit_is_raised_to_the_hard_one(*, soft: int, hard: int, raised: str, warns: bool) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(soft=soft, hard=hard)], capture_output=True, text=True, check=True
    )

    assert ran.stdout.strip() == raised
    assert ("open_files.low" in ran.stderr and "limit=1024" in ran.stderr) is warns


@pytest.mark.parametrize(("environment", "width"), [({}, "200"), ({"COLUMNS": "72"}, "72")])
def test_output_to_a_pipe_is_wide_enough_for_whole_ids(environment: dict[str, str], width: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    program = "from deploy.cli.startup import console; print(console.width)"
    ran = subprocess.run(
        [sys.executable, "-c", program], env=inherited | environment, capture_output=True, text=True, check=True
    )

    assert ran.stdout.strip() == width


WITHOUT_PRIVILEGES = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
OTHER = 4321


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can make another user's folder")
@pytest.mark.parametrize(
    ("command", "folder", "remedy"),
    [
        ("listen", ".", "`chown -R 0 {}`"),
        *(
            pytest.param(name, ".", "`chown -R 0 {}`", marks=pytest.mark.slow)
            for name in ("dispatch", "work", "serve", "up")
        ),
        pytest.param("listen", "spool", "give user 0 access to {}", marks=pytest.mark.slow),
    ],
)
def test_folder_of_another_user_is_named_with_owner_user_and_command(
    tmp_path: Path, command: str, folder: str, remedy: str
) -> None:
    """Without privileges root is refused like any other user, or like root on a squashed NFS mount."""
    place = tmp_path / "data" / folder
    place.mkdir(parents=True)
    os.chown(place, OTHER, OTHER)
    place.chmod(0o700)
    environment = {"PRELIM_DATA_DIR": str(tmp_path / "data"), "PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    ran = subprocess.run(
        [*WITHOUT_PRIVILEGES, sys.executable, "-m", "deploy.cli.entry", command],
        env=environment | {"PRELIM_DICOM_PORT": str(free_port())},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before

    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1, ran.stderr
    for words in (str(place), f"belongs to user {OTHER}", "runs as user 0", remedy.format(place.resolve())):
        assert words in ran.stderr
    # Of the processor: the wall time of a busy machine says nothing.
    assert seconds < 2


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can make another user's folder")
@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (0o755, "or create {path} as that user and `chown 0 {path}`"),
        (0o700, "or give user 0 access to {parent}"),
    ],
)
def test_folder_above_a_refused_path_keeps_its_owner(tmp_path: Path, mode: int, words: str) -> None:
    """Its other files are those of other programs: /var/lib of /var/lib/prelim, for example."""
    parent = tmp_path / "lib"
    parent.mkdir()
    os.chown(parent, OTHER, OTHER)
    parent.chmod(mode)
    path = parent / "prelim"
    program = f"from deploy.cli import startup\nprint(startup.refused(PermissionError(13, 'denied', {str(path)!r})))"
    printed = subprocess.run(
        [*WITHOUT_PRIVILEGES, sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout

    assert f"{parent} belongs to user {OTHER}" in printed
    assert words.format(path=path, parent=parent) in printed
    assert "-R" not in printed
