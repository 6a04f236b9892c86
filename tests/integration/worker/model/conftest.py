from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from worker.model.checkpoint.convert import convert_checkpoint
from worker.model.checkpoint.random_weights import write_random_checkpoint
from worker.model.resident_model import ResidentModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Parity:
    """A tiny checkpoint in the published layout and the results of the original code."""

    directory: Path
    cases: list[dict[str, Any]]
    arrays: dict[str, npt.NDArray[Any]]

    @property
    def checkpoint(self) -> Path:
        return self.directory / "checkpoint"

    def image(self, case: dict[str, Any]) -> npt.NDArray[np.uint8]:
        return np.asarray(Image.open(self.directory / case["image"]).convert("RGB"))


@pytest.fixture(scope="session")
def parity(test_data: Path) -> Parity:
    directory = test_data / "parity"
    with np.load(directory / "expected.npz") as arrays:
        expected = dict(arrays)
    return Parity(directory, json.loads((directory / "expected.json").read_text())["cases"], expected)


@pytest.fixture(scope="session")
def converted(parity: Parity, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In float32, as parity was measured; in several shards, as the published one."""
    directory = tmp_path_factory.mktemp("checkpoints") / "converted"
    convert_checkpoint(parity.checkpoint, directory, dtype="float32", max_shard_bytes=10**6)
    return directory


@pytest.fixture(scope="module")
def resident(converted: Path) -> Iterator[ResidentModel]:
    model = ResidentModel.load(converted, device="cpu", slots=4, context_tokens=1024)
    yield model
    model.close()


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints") / "random"
    write_random_checkpoint(directory)
    return directory
