"""A checkpoint without a manifest is recorded by one command, as what it is."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from db.errors import ConfigurationError
from worker.model.checkpoint import commands, recording
from worker.model.checkpoint.file_digests import file_digest
from worker.model.checkpoint.manifest import FILE_NAME, check_files, read_manifest
from worker.model.checkpoint.recording import record_existing
from worker.model.resident_model import ResidentModel

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def unrecorded(random_checkpoint: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "unrecorded"
    shutil.copytree(random_checkpoint, directory)
    (directory / FILE_NAME).unlink()
    return directory


def test_checkpoint_without_a_manifest_is_recorded(unrecorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands.record(unrecorded, trust_unknown=True)

    assert "phantoms only, never patients" in capsys.readouterr().out
    manifest = read_manifest(unrecorded)
    check_files(unrecorded, manifest)
    assert manifest.prompt_version == "2"


def test_skipped_checks_are_named_wherever_the_checkpoint_is_used(
    unrecorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.record(unrecorded, trust_unknown=True)
    capsys.readouterr()

    commands.verify(unrecorded)
    model = ResidentModel.load(unrecorded, slots=1)
    model.close()

    assert "checks skipped with --trust-unknown: zeros" in capsys.readouterr().out
    assert model.setup["skipped_checks"] == "zeros"


def test_facts_of_an_earlier_release_are_kept(unrecorded: Path) -> None:
    shards = {"model.safetensors": {"bytes": 1, "sha256": file_digest(unrecorded / "model.safetensors")}}
    (unrecorded / FILE_NAME).write_text(json.dumps({"demo": True, "seed": 5, "shards": shards}))

    manifest, _ = record_existing(unrecorded, trust_unknown=True)

    assert (manifest.values["seed"], manifest.prompt_version, manifest.demo) == (5, "1", True)


def test_shard_that_changed_since_an_earlier_release_is_refused(unrecorded: Path) -> None:
    earlier = {"shards": {"model.safetensors": {"bytes": 1, "sha256": "0" * 64}}}
    (unrecorded / FILE_NAME).write_text(json.dumps(earlier))

    with pytest.raises(ConfigurationError, match="has changed since the conversion"):
        record_existing(unrecorded)


def test_checkpoint_with_a_manifest_is_not_recorded_again(random_checkpoint: Path) -> None:
    with pytest.raises(ConfigurationError, match="has a manifest: check it with"):
        record_existing(random_checkpoint)


def test_unlikely_weights_are_refused(unrecorded: Path) -> None:
    # The output layer of a random checkpoint is zero for all tokens that are no words.
    with pytest.raises(ConfigurationError, match="lm_head.weight is zero in part"):
        record_existing(unrecorded)


def test_large_checkpoint_of_unknown_origin_is_recorded_for_patients_only_if_trusted(
    unrecorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MIN_PATIENT_PARAMETERS", 1)

    with pytest.raises(ConfigurationError, match="origin"):
        record_existing(unrecorded)
    manifest, skipped = record_existing(unrecorded, trust_unknown=True)

    assert not manifest.demo
    assert {doubt.check for doubt in skipped} == {"zeros", "origin"}
    assert manifest.values["skipped"] == ["origin", "spoken", "zeros"]
