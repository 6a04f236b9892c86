"""The manifest: nothing of a checkpoint can be changed, added, removed or declared another without a refusal."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from db.errors import ConfigurationError
from worker.model.checkpoint import file_digests
from worker.model.checkpoint.manifest import FILE_NAME, check_files, digest_of, read_manifest, write_manifest
from worker.model.checkpoint.recording import check_use, record_checkpoint
from worker.model.resident_model import ResidentModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Change = Callable[[Path], object]

SHARD = "model-00001-of-00004.safetensors"


def flip_last_bit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))


def append(name: str) -> Change:
    """Change a file without a change of its meaning."""

    def change(directory: Path) -> None:
        with (directory / name).open("a") as file:
            file.write(" ")

    return change


def edit(directory: Path, **values: object) -> None:
    path = directory / FILE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_with_digest(directory: Path, **values: object) -> None:
    """As a program would that computes the digest anew."""
    changed = json.loads((directory / FILE_NAME).read_text()) | values
    edit(directory, **values, digest=digest_of(changed))


CHANGES: list[tuple[Change, str]] = [
    (append("config.json"), "config.json has changed since"),
    (append("tokenizer.json"), "tokenizer.json has changed since"),
    (append("tokenizer_config.json"), "tokenizer_config.json has changed since"),
    (append("chat_template.jinja"), "chat_template.jinja has changed since"),
    (append("generation_config.json"), "generation_config.json has changed since"),
    (append("preprocessor_config.json"), "preprocessor_config.json has changed since"),
    (lambda d: flip_last_bit(d / SHARD), "safetensors has changed since"),
    (lambda d: os.truncate(d / SHARD, 1000), "safetensors has changed since"),
    (lambda d: (d / SHARD).unlink(), "safetensors is missing"),
    (lambda d: (d / "chat_template.jinja").unlink(), "chat_template.jinja is missing"),
    (lambda d: (d / "adapter_config.json").write_text("{}"), "adapter_config.json was added"),
    (lambda d: (d / "processor_config.json").write_text("{}"), "processor_config.json was added"),
    (
        lambda d: (d / "additional_chat_templates").mkdir() or (d / "additional_chat_templates/a.jinja").touch(),
        "a.jinja was added",
    ),
    (lambda d: edit(d, demo=False), "its digest does not match"),
    (lambda d: edit(d, prompt_version="1"), "its digest does not match"),
    (lambda d: edit(d, files={}), "its digest does not match"),
    (lambda d: edit_with_digest(d, files={}), "its digest does not match"),
    (lambda d: edit_with_digest(d, files={SHARD: 3}), "its digest does not match"),
    (lambda d: edit_with_digest(d, demo="no"), "its digest does not match"),
    (lambda d: edit_with_digest(d, demo=False), "is not recorded as a demo"),
    (lambda d: edit(d, format=2), "has the format 2"),
    (lambda d: (d / FILE_NAME).unlink(), "has no manifest"),
    (lambda d: (d / FILE_NAME).write_text('{"demo": false, "shards": {}}'), "has no manifest"),
    (lambda d: (d / FILE_NAME).write_text("[" * 100_000), "cannot be read"),
]


@pytest.mark.parametrize(("change", "problem"), CHANGES)
def test_checkpoint_that_differs_from_its_manifest_is_not_served(
    converted: Path, tmp_path: Path, change: Change, problem: str
) -> None:
    directory = tmp_path / "checkpoint"
    shutil.copytree(converted, directory)
    change(directory)

    with pytest.raises(ConfigurationError, match=problem) as raised:
        ResidentModel.load(directory, device="cpu")

    assert "\n" not in str(raised.value)


def test_description_of_a_checkpoint_may_be_edited(converted: Path, tmp_path: Path) -> None:
    directory = tmp_path / "checkpoint"
    shutil.copytree(converted, directory)
    (directory / "README.md").write_text("Our model")

    check_files(directory, read_manifest(directory))


def test_demo_without_its_manifest_is_recorded_as_a_demo_again(random_checkpoint: Path, tmp_path: Path) -> None:
    directory = tmp_path / "copied"
    shutil.copytree(random_checkpoint, directory, ignore=lambda *_: [FILE_NAME])

    manifest = record_checkpoint(directory, {"demo": False})

    assert manifest.demo
    check_use(directory, manifest)


def test_manifest_is_independent_of_place_and_time(converted: Path, tmp_path: Path) -> None:
    directory = tmp_path / "copied"
    shutil.copytree(converted, directory)
    before = read_manifest(converted)

    facts = {name: value for name, value in before.values.items() if name not in ("files", "digest")}
    assert write_manifest(directory, facts).digest == before.digest


@pytest.fixture
def large(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a checkpoint that counts as large enough to be remembered."""
    monkeypatch.setattr(file_digests, "MIN_REMEMBERED_BYTES", 1)
    directory = tmp_path / "large"
    shutil.copytree(converted, directory)
    return directory


def read(directory: Path, monkeypatch: pytest.MonkeyPatch, *, everything: bool = False) -> set[str]:
    """Names of the files that a check reads."""
    names: set[str] = set()
    original = file_digests.file_digest
    with monkeypatch.context() as patched:
        patched.setattr(file_digests, "file_digest", lambda path: names.add(path.name) or original(path))
        check_files(directory, read_manifest(directory), everything=everything)
    return names


def test_unchanged_files_are_read_once(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = set(read_manifest(large).files)

    assert read(large, monkeypatch) == every
    assert read(large, monkeypatch) == set()
    assert read(large, monkeypatch, everything=True) == every


def test_file_written_in_place_is_read_again_although_its_time_was_set_back(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(large, monkeypatch)
    before = (large / SHARD).stat()
    flip_last_bit(large / SHARD)
    os.utime(large / SHARD, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(ConfigurationError, match="has changed since"):
        check_files(large, read_manifest(large))


@pytest.mark.parametrize("stored", ["", "[]", "{}", '{"config.json": 3}', '{"config.json": {"sha256": "0"}}'])
def test_damaged_list_of_read_files_has_no_effect(large: Path, monkeypatch: pytest.MonkeyPatch, stored: str) -> None:
    (large / file_digests.HASHED).write_text(stored)

    assert read(large, monkeypatch) == set(read_manifest(large).files)


def test_digest_in_the_list_of_read_files_cannot_replace_the_manifest(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(large, monkeypatch)
    entries = json.loads((large / file_digests.HASHED).read_text())
    entries[SHARD]["sha256"] = "0" * 64
    (large / file_digests.HASHED).write_text(json.dumps(entries))

    with pytest.raises(ConfigurationError, match="has changed since"):
        check_files(large, read_manifest(large))
