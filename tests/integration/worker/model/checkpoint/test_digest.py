"""The digest of a checkpoint."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from worker.model.checkpoint import digest
from worker.model.checkpoint.digest import check_shards, checkpoint_digest, file_digest

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_digest_covers_weights_configuration_and_tokenizer(converted: Path, tmp_path: Path) -> None:
    digests = {checkpoint_digest(converted)}
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "model-00001-of-00004.safetensors"):
        changed = tmp_path / name
        shutil.copytree(converted, changed)
        with (changed / name).open("ab") as file:
            file.write(b" ")
        digests.add(checkpoint_digest(changed))

    assert len(digests) == 5


def test_weights_changed_in_place_change_the_digest(converted: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(converted, changed)
    check_shards(changed)
    before = checkpoint_digest(changed)
    shard = changed / "model-00001-of-00004.safetensors"
    with shard.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))

    assert checkpoint_digest(changed) != before == checkpoint_digest(converted)


def test_unchanged_shards_are_not_read_again(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(directory: Path) -> set[str]:
        """Of the shards."""
        names: set[str] = set()
        monkeypatch.setattr(digest, "file_digest", lambda path: names.add(path.name) or file_digest(path))
        checkpoint_digest(directory)
        monkeypatch.undo()
        return {name for name in names if name.endswith(".safetensors")}

    copied = tmp_path / "copied"
    shutil.copytree(converted, copied)

    assert read(converted) == set()
    assert len(read(copied)) == 4
    check_shards(copied)
    assert read(copied) == set()
