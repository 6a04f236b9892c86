"""The destination appears complete or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from db.errors import ConfigurationError
from tests.integration.worker.model.checkpoint.published_checkpoint import PublishedCheckpoint, assert_rejected, weights
from worker.model.checkpoint import atomic, convert
from worker.model.checkpoint.convert import convert_checkpoint
from worker.model.checkpoint.manifest import check_files, read_manifest
from worker.model.checkpoint.random_weights import write_random_checkpoint
from worker.model.resident_model import ResidentModel

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.worker.model.conftest import Parity


def test_missing_disk_space_is_reported_before_writing(
    parity: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "SIDE_FILE_BYTES", 10**18)

    assert_rejected(parity.checkpoint, tmp_path / "converted", "not enough disk space")


def test_existing_destination_is_not_changed(parity: Parity, tmp_path: Path) -> None:
    (tmp_path / "converted").mkdir()

    assert_rejected(parity.checkpoint, tmp_path / "converted", "exists: remove it")


def test_dangling_link_as_destination_is_rejected(parity: Parity, tmp_path: Path) -> None:
    (tmp_path / "converted").symlink_to(tmp_path / "nowhere" / "converted")

    assert_rejected(parity.checkpoint, tmp_path / "converted", "exists: remove it")


def test_failed_conversion_removes_the_directories_it_created(parity: Parity, tmp_path: Path) -> None:
    published = PublishedCheckpoint(parity.checkpoint)
    published.tensors["mlp1.0.bias"][3] = torch.nan
    source = published.write(tmp_path / "published")

    with pytest.raises(ConfigurationError, match="not finite"):
        convert_checkpoint(source, tmp_path / "models" / "new" / "converted")

    assert list(tmp_path.iterdir()) == [source]


def test_checkpoint_is_readable_by_all_users(parity: Parity, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        convert_checkpoint(parity.checkpoint, tmp_path / "converted")
        write_random_checkpoint(tmp_path / "random")
    finally:
        os.umask(before)

    for directory in (tmp_path / "converted", tmp_path / "random"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755
        assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o644}


def test_interrupted_conversion_leaves_nothing(parity: Parity, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(parity.checkpoint, tmp_path / "converted", on_bytes=interrupt)

    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
from pathlib import Path
from worker.model.checkpoint.convert import convert_checkpoint
convert_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), max_shard_bytes=10**5,
                   on_bytes=lambda done, total: (print(done, flush=True), time.sleep(0.05)))
"""


def test_killed_conversion_leaves_nothing_loadable_and_can_be_repeated(parity: Parity, tmp_path: Path) -> None:
    target = tmp_path / "converted"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(parity.checkpoint), str(target)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        for _ in range(20):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    process.wait(10)

    (left,) = tmp_path.iterdir()
    for directory in (left, target):
        with pytest.raises(ConfigurationError):
            ResidentModel.load(directory, device="cpu")
    convert_checkpoint(parity.checkpoint, target)
    assert list(tmp_path.iterdir()) == [target]


def test_only_directories_of_dead_conversions_are_removed(parity: Parity, tmp_path: Path) -> None:
    source = tmp_path / "meddr.partial"
    shutil.copytree(parity.checkpoint, source)
    others = [tmp_path / name for name in (".meddr.unfinished-mine", ".other.unfinished-1", "meddr.old")]
    for other in others:
        other.mkdir()
        (other / "kept").touch()
    (others[1] / atomic.MARKER).touch()
    dead = tmp_path / ".meddr.unfinished-1"
    dead.mkdir()
    (dead / atomic.MARKER).touch()

    convert_checkpoint(source, tmp_path / "meddr")

    assert (source / "config.json").is_file()
    assert all((other / "kept").exists() for other in others)
    assert not dead.exists()


def test_second_conversion_to_the_same_destination_fails(parity: Parity, tmp_path: Path) -> None:
    target = tmp_path / "converted"
    second: list[bool] = []

    def convert_meanwhile(done: int, total: int) -> None:
        if done > total // 3 and not second:
            second.append(True)
            convert_checkpoint(parity.checkpoint, target, dtype="float32")

    with pytest.raises(ConfigurationError, match="cannot be written: .*not empty"):
        convert_checkpoint(parity.checkpoint, target, dtype="bfloat16", on_bytes=convert_meanwhile)

    assert list(tmp_path.iterdir()) == [target]
    assert not (target / atomic.MARKER).exists()
    assert {tensor.dtype for tensor in weights(target).values()} == {torch.float32}
    check_files(target, read_manifest(target))


def test_disk_space_of_a_killed_run_is_freed_first(
    parity: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = tmp_path / ".converted.unfinished-1"
    dead.mkdir()
    (dead / atomic.MARKER).touch()
    full, roomy = shutil.disk_usage(tmp_path)._replace(free=0), shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full if dead.exists() else roomy)

    convert_checkpoint(parity.checkpoint, tmp_path / "converted")
