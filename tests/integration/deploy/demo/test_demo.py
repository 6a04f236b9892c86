"""What `prelim demo` makes of a data folder that was there before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from db import reference
from db.errors import ConfigurationError
from db.session import transaction
from db.settings import Settings
from deploy.demo.demo import CHECKPOINT, _reference_index
from worker.model.checkpoint.digest import checkpoint_digest

if TYPE_CHECKING:
    from pathlib import Path


def test_an_index_that_a_worker_would_wait_for_ends_the_demo_with_what_to_do(database_url: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database_url=database_url, checkpoint=CHECKPOINT)
    with transaction(settings.database()) as session:
        reference.add_snapshot(session, directory="reference/gone", model_digest=checkpoint_digest(CHECKPOINT), cases=1)

    with pytest.raises(ConfigurationError, match="prelim reference build.*PRELIM_DATA_DIR"):
        _reference_index(settings, tmp_path / "earlier")
