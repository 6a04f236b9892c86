"""A path that cannot be the data directory is refused by every command that opens it, in one sentence with a remedy."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

from deploy.cli import app, startup
from tests.conftest import REPOSITORY, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROOT: Any = typer.main.get_command(app.app)
#: They open no data directory: `doctor` reports it as a finding, `settings` prints the documentation, and the others
#: have files as arguments, or another machine.
OTHERS = {
    "settings",
    "doctor",
    "ready",
    "live",
    "send",
    "echo",
    "phantoms",
    "bootstrap",
    "plan",
    "rules check",
    "secrets rotate",
    "checkpoint random",
    "checkpoint convert",
    "checkpoint info",
    "checkpoint record",
    "checkpoint verify",
}
#: Arguments of a valid call, by the command, or by the group; {} is a folder.
ARGUMENTS = {
    "index add": "{} 1",
    "index remove": "1",
    "index": "{}",
    "key": "NAME",
    "retry": "STUDY",
    "ask": "STUDY QUESTION",
    "diagnose": "STUDY --options a --options b",
    "commit": "{}",
    "move-images": "files",
    "backup": "{} --key-file {}/key",
    "restore": "{} --key-file {}/key",
    "evaluate": "--checkpoint {} --phantoms 1",
    "calibrate": "--from phantoms",
    "audit-log export": "{}/file",
    "predictions import": "/dev/null",
}


def commands(group: Any = ROOT, *names: str) -> Iterator[tuple[str, Any]]:
    """Yield name and parser of each command."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name)), command


COMMANDS = {name: command for name, command in commands() if name not in OTHERS}


def arguments(name: str, folder: Path) -> list[str]:
    """Return the command line of a valid call."""
    group, _, command = name.replace("reference", "index").partition(" ")
    is_required = any(parameter.required for parameter in COMMANDS[name].params)
    given = ARGUMENTS.get(f"{group} {command}".strip(), ARGUMENTS.get(group, "NAME"))
    is_known = f"{group} {command}".strip() in ARGUMENTS
    return name.split() + (given.replace("{}", str(folder)).split() if is_required or is_known else [])


def file(folder: Path) -> tuple[Path, str]:
    (folder / "file").touch()
    return folder / "file", "it exists and is not a directory: move it away, or name another path"


def below_a_file(folder: Path) -> tuple[Path, str]:
    (folder / "file").touch()
    return folder / "file" / "data", f"{folder}/file exists and is not a directory: move it away"


def dangling_link(folder: Path) -> tuple[Path, str]:
    (folder / "link").symlink_to("/disk/that/is/not/mounted")
    return folder / "link", "it is a symbolic link to /disk/that/is/not/mounted, which is missing: create or mount it"


def below_a_dangling_link(folder: Path) -> tuple[Path, str]:
    (folder / "link").symlink_to("/disk/that/is/not/mounted")
    return folder / "link" / "data", f"{folder}/link is a symbolic link to /disk/that/is/not/mounted, which is missing"


def links_in_a_circle(folder: Path) -> tuple[Path, str]:
    (folder / "link").symlink_to("link")
    return folder / "link", "correct the symbolic links: they lead in a circle"


def long_name(folder: Path) -> tuple[Path, str]:
    return folder / ("x" * 256), "use a shorter one: a name has at most 255 bytes"


KINDS = (file, below_a_file, dangling_link, below_a_dangling_link, links_in_a_circle, long_name)


def test_every_command_is_tested() -> None:
    assert {name for name, _ in commands()} == COMMANDS.keys() | OTHERS
    assert len(COMMANDS) > 40


#: All commands are refused a file, and three of them each other path.
CASES = [*((name, file) for name in COMMANDS), *itertools.product(("listen", "list", "index info"), KINDS[1:])]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_path_that_cannot_be_the_data_directory_is_refused(
    name: str,
    kind: Callable[[Path], tuple[Path, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, words = kind(tmp_path)
    monkeypatch.setenv("PRELIM_DATA_DIR", str(path))
    monkeypatch.setattr(sys, "argv", ["prelim", *arguments(name, tmp_path)])
    mask = os.umask(0o077)
    with pytest.raises(SystemExit) as ended:
        app.main()
    os.umask(mask)
    printed = capsys.readouterr().err

    assert ended.value.code == 2, printed
    assert printed.count("\n") == 1, printed
    assert printed.startswith(f"error: PRELIM_DATA_DIR: {path}: "), printed
    assert words in printed


WITHOUT_PRIVILEGES = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


def run(command: str, data: Path, *before: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-m", "deploy.cli.entry", command],
        env={"PRELIM_DATA_DIR": str(data), "PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="drops the privileges of root")
@pytest.mark.parametrize(("command", "mode"), [("listen", 0o500), ("listen", 0o600), ("status", 0o600)])
def test_own_folder_that_cannot_be_entered_or_written_is_named(tmp_path: Path, command: str, mode: int) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "run").mkdir()
    data.chmod(mode)
    ran = run(command, data, *WITHOUT_PRIVILEGES)
    data.chmod(0o700)

    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert "Permission denied" in ran.stderr
    assert str(data) in ran.stderr
    assert ("`chmod -R u+rwX" in ran.stderr) is (command == "listen")
    assert "start `prelim up`" not in ran.stderr, "it may run"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("size=1m,nr_inodes=20", "No space left on device: free space on this disk (`df -h`, `df -i`)"),
        ("size=1m,ro", "Read-only file system: mount it writable"),
    ],
)
def test_full_and_read_only_disks_are_named_with_the_remedy(tmp_path: Path, options: str, words: str) -> None:
    data = tmp_path / "disk"
    data.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(data)]
    if not shutil.which("mount") or subprocess.run(mount, check=False, capture_output=True).returncode:
        missing("the right to mount a file system")
    try:
        ran = run("listen", data)
    finally:
        subprocess.run(["umount", str(data)], check=True)

    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert words in ran.stderr
    assert str(data) in ran.stderr


def test_error_without_a_path_has_its_remedy() -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert startup.explained(error).startswith("operating system: No space left on device: free space")
