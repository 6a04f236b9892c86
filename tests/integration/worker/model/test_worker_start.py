"""Start of the worker process: the real Celery command, without broker and database."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from db.errors import ConfigurationError
from db.settings import Settings
from worker.model.checkpoint.manifest import write_manifest
from worker.resident import Resident

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WORKER = [sys.executable, "-m", "celery", "-A", "worker", "worker", "--pool=threads", "--concurrency=3"]
CLOSED_PORT = "redis://127.0.0.1:1/0"
NO_DATABASE = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"

#: A worker whose model raises an unexpected error when it is loaded.
UNEXPECTED_ERROR = """
import sys
from celery.signals import worker_init
from db.settings import Settings
from worker.process import build

def load(settings):
    raise RuntimeError("CUDA error: the name of a patient")

nowhere = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"
build(Settings(broker_url="redis://127.0.0.1:1/0", database_url=nowhere), load)
worker_init.send(sender=None)
print("went on")
"""


def environment(checkpoint: Path, data: Path) -> dict[str, str]:
    given = {"CHECKPOINT": checkpoint, "DATA_DIR": data, "DEVICE": "cpu"}
    given |= {"BROKER_URL": CLOSED_PORT, "DATABASE_URL": NO_DATABASE}
    return {**os.environ, **{f"PRELIM_{name}": str(value) for name, value in given.items()}}


def remove(directory: Path) -> None:
    shutil.rmtree(directory)


def break_template(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text("{% for %}")
    write_manifest(directory, {"demo": True})


def misplace_image_token(directory: Path) -> None:
    change(directory, "config.json", image_token_id=99_999)
    write_manifest(directory, {"demo": True})


def drop_manifest(directory: Path) -> None:
    (directory / "prelim.json").unlink()


def nest_record(directory: Path) -> None:
    (directory / "prelim.json").write_text("[" * 100_000)


def write_config_list(directory: Path) -> None:
    (directory / "config.json").write_text("[]")


def change(directory: Path, name: str, **values: Any) -> None:
    path = directory / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (remove, "no checkpoint at "),
        (break_template, "does not run: "),
        (misplace_image_token, "no token with the image_token_id of config.json, 99999"),
        (drop_manifest, "has no manifest"),
        (nest_record, "prelim.json cannot be read"),
        (write_config_list, "expected a JSON object"),
    ],
)
def test_unusable_checkpoint_is_rejected_with_its_cause(
    random_checkpoint: Path, tmp_path: Path, damage: Callable[[Path], None], problem: str
) -> None:
    directory = tmp_path / "checkpoint"
    shutil.copytree(random_checkpoint, directory)
    damage(directory)

    with pytest.raises(ConfigurationError, match=re.escape(problem)):
        Resident.load(Settings(checkpoint=directory, device="cpu"))


def test_rejected_checkpoint_ends_the_worker_with_one_line(random_checkpoint: Path, tmp_path: Path) -> None:
    directory = tmp_path / "checkpoint"
    shutil.copytree(random_checkpoint, directory)
    break_template(directory)

    ended = subprocess.run(
        WORKER,
        env=environment(directory, tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert ended.returncode == 2, ended.stdout + ended.stderr
    (line,) = [line for line in (ended.stdout + ended.stderr).splitlines() if "worker.start_failed" in line]
    assert "does not run: " in line


@pytest.mark.parametrize("command", [WORKER, [sys.executable, "-m", "deploy.cli.app", "work"]])
@pytest.mark.parametrize(
    ("unset", "extra", "problem"),
    [
        ("PRELIM_DATABASE_URL", {}, "no database_url: "),
        ("PRELIM_BROKER_URL", {}, "no broker_url: "),
        (None, {"PRELIM_DATABASE_ULR": NO_DATABASE}, "PRELIM_DATABASE_ULR is not a setting"),
    ],
)
def test_invalid_settings_end_the_worker_with_one_line(
    tmp_path: Path, command: list[str], unset: str | None, extra: dict[str, str], problem: str
) -> None:
    variables = environment(tmp_path, tmp_path) | extra
    variables.pop(unset or "", None)

    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=120)

    assert ended.returncode == 2, ended.stdout + ended.stderr
    (line,) = (ended.stdout + ended.stderr).splitlines()
    assert line.startswith("error: ")
    assert problem in line


def test_unexpected_error_ends_the_worker_and_is_not_quoted(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", UNEXPECTED_ERROR], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )

    assert ended.returncode == 70
    assert "worker.start_failed" in ended.stdout + ended.stderr
    assert "patient" not in ended.stdout + ended.stderr
    assert "went on" not in ended.stdout


def test_model_is_loaded_once_and_not_on_import(random_checkpoint: Path, tmp_path: Path) -> None:
    variables = environment(random_checkpoint, tmp_path)
    imported = subprocess.run(
        [sys.executable, "-c", "import sys, worker.celery; print('torch' in sys.modules)"],
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert imported.stdout.split() == ["False"]
    assert "loaded" not in imported.stderr

    with subprocess.Popen(
        WORKER, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
    ) as worker:
        assert worker.stdout is not None
        lines: list[str] = []
        # Logged by a thread that starts when the model is loaded.
        while not any("broker.unreachable" in line for line in lines) and (line := worker.stdout.readline()):
            lines.append(line)
        worker.kill()

    assert sum(" checkpoint.loaded" in line for line in lines) == 1, "".join(lines)


FOREIGN_CODE = """
from pathlib import Path
from transformers import LlamaConfig
(Path(__file__).parent / "it-ran").touch()
class Foreign(LlamaConfig):
    model_type = "foreign"
"""

READ = """
import sys
from pathlib import Path
from db.errors import ConfigurationError
from worker.model.loading import load_checkpoint
from worker.model.checkpoint.sizing import measure
for read in (lambda path: load_checkpoint(path, device="cpu", dtype="auto"), measure):
    try:
        read(Path(sys.argv[1]))
    except ConfigurationError as error:
        print("refused:", error)
print("the end")
"""


def test_code_in_a_checkpoint_is_not_run(random_checkpoint: Path, tmp_path: Path) -> None:
    directory = tmp_path / "checkpoint"
    shutil.copytree(random_checkpoint, directory)
    (directory / "foreign.py").write_text(FOREIGN_CODE)
    change(directory, "config.json", model_type="foreign", auto_map={"AutoConfig": "foreign.Foreign"})

    shown = on_a_terminal([sys.executable, "-c", READ, str(directory)], answer=b"y\n", until=b"the end")

    assert shown.count("refused:") == 2
    assert "[y/N]" not in shown
    assert not list(tmp_path.rglob("it-ran"))


def on_a_terminal(command: list[str], *, answer: bytes, until: bytes) -> str:
    """Return the output of *command* on a terminal, with *answer* to every question."""
    ours, theirs = pty.openpty()
    shown = b""
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        while until not in shown and process.poll() is None:
            if select.select([ours], [], [], 0.5)[0]:
                shown += os.read(ours, 4096)
                if shown.endswith(b"[y/N] "):
                    os.write(ours, answer)
    os.close(ours)
    return shown.decode()
