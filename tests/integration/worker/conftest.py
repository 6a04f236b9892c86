"""A waiting job, and a writer that finishes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from db.settings import Settings
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_claims import DRAFT

if TYPE_CHECKING:
    from pathlib import Path

    from db.reports.versions import Draft
    from worker.pipeline.pipeline import StudyToReport


@pytest.fixture
def arrivals(database_url: str) -> Arrivals:
    waiting = Arrivals(database_url)
    waiting.image()
    waiting.settle()
    return waiting


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, database_url=database_url, lease_seconds=30, retry_seconds=60)


def written(_study: StudyToReport, _on_progress: Any) -> Draft:
    return DRAFT
