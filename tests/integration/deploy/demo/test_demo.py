"""`prelim demo` on an existing data folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from db import reference
from db.errors import ConfigurationError
from db.session import transaction
from db.settings import Settings
from deploy.demo.demo import CHECKPOINT, _reference_index
from worker.model.checkpoint.manifest import read_manifest
from worker.phantoms.datasets import write_reference_cases

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Signals:
    """Stop signals that a test gives."""

    stopping: bool = False


def test_missing_index_files_end_the_demo_with_advice(database_url: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=database_url, checkpoint=CHECKPOINT)
    with transaction(settings.database()) as session:
        reference.add_snapshot(
            session, directory="reference/gone", model_digest=read_manifest(CHECKPOINT).digest, cases=1
        )

    with pytest.raises(ConfigurationError, match="prelim index build.*PRELIM_DATA_DIR"):
        _reference_index(settings, tmp_path / "earlier", {}, Signals())


def test_stop_signal_ends_the_index_build_at_once(database_url: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=database_url, checkpoint=CHECKPOINT)
    write_reference_cases(tmp_path / "cases", count=4, seed=0)
    began = time.monotonic()

    _reference_index(settings, tmp_path / "cases", {"PRELIM_DATABASE_URL": database_url}, Signals(stopping=True))

    assert time.monotonic() - began < 5
    with transaction(settings.database()) as session:
        assert reference.current_snapshot(session, read_manifest(CHECKPOINT).digest) is None
