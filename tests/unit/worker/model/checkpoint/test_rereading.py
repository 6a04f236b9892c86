"""The background reading of a checkpoint finds a file that changed on disk, and reads at a bounded rate."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from worker.model.checkpoint import file_digests
from worker.model.checkpoint.manifest import Manifest, check_files, write_manifest
from worker.model.checkpoint.rereading import Rereading

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(file_digests, "MIN_REMEMBERED_BYTES", 1)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(100_000))
    return tmp_path


@pytest.fixture
def manifest(directory: Path) -> Manifest:
    written = write_manifest(directory, {"demo": True})
    check_files(directory, written)
    return written


def reread(directory: Path, manifest: Manifest) -> str:
    reading = Rereading(directory, manifest).start()
    reading.join(30)
    return reading.damaged


def test_unchanged_files_are_not_damaged(directory: Path, manifest: Manifest) -> None:
    assert reread(directory, manifest) == ""
    assert file_digests.remembered(directory)


def test_changed_bit_is_found_and_read_at_the_next_start(directory: Path, manifest: Manifest) -> None:
    (directory / "model.safetensors").write_bytes(bytes(99_999) + b"\1")

    assert reread(directory, manifest) == "model.safetensors"
    assert file_digests.remembered(directory) == {}


def test_file_that_cannot_be_read_is_damaged(directory: Path, manifest: Manifest) -> None:
    (directory / "model.safetensors").unlink()

    assert reread(directory, manifest) == "model.safetensors"


def test_reading_keeps_its_rate_and_can_be_stopped(directory: Path, manifest: Manifest) -> None:
    started = time.monotonic()
    Rereading(directory, manifest, bytes_per_second=500_000).start().join(30)
    assert time.monotonic() - started >= 0.2

    slow = Rereading(directory, manifest, bytes_per_second=1).start()
    slow.close()
    assert slow.damaged == ""
