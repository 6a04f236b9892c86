"""The vision tower alone: the tokens of the whole checkpoint, without its language model."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from db.errors import ConfigurationError
from db.settings import Settings
from deploy.demo.demo import CHECKPOINT
from worker.model.checkpoint.manifest import read_manifest
from worker.model.loading import load_checkpoint
from worker.model.patch_tokens import image_patch_tokens
from worker.model.vision_tower import VisionTower, has_separate_tower
from worker.resident import image_encoder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tower_alone_gives_the_tokens_of_the_whole_checkpoint(dtype: str) -> None:
    images = [np.random.default_rng(seed).integers(0, 256, (64, 96, 3), np.uint8) for seed in range(2)]
    whole = load_checkpoint(CHECKPOINT, device="cpu", dtype=dtype)

    tower = VisionTower.load(CHECKPOINT, device="cpu", dtype=dtype)

    expected = [image_patch_tokens(whole.model, whole.prompts, image).float().numpy() for image in images]
    assert np.array_equal(tower.patch_tokens(images), np.concatenate(expected))


def test_cases_are_added_without_the_language_model_where_the_tower_is_separate(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')

    with image_encoder(Settings(checkpoint=CHECKPOINT, data_dir=tmp_path, device="cpu")) as encoder:
        assert isinstance(encoder, VisionTower)
        assert encoder.digest == read_manifest(CHECKPOINT).digest
    assert not has_separate_tower(tmp_path)


def test_tower_of_a_changed_checkpoint_is_refused(tmp_path: Path) -> None:
    changed = shutil.copytree(CHECKPOINT, tmp_path / "changed")
    with (changed / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"abcd")

    with pytest.raises(ConfigurationError, match="has changed since the manifest was written"):
        VisionTower.load(changed, device="cpu")
