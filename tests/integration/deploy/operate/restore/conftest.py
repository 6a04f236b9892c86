"""Fixtures of the tests of backups: an installation, a folder of backups, and an empty place to restore into."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploy.operate.backup.repository import Repository
from tests.integration.deploy.operate.restore.place import KEY, empty_place, installation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings
    from deploy.embedded.postgres import Postgres


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return installation(tmp_path / "data", database_url)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "backups", KEY)


@pytest.fixture
def empty(tmp_path: Path, postgres: Postgres) -> Iterator[Settings]:
    with empty_place(tmp_path / "empty", postgres) as place:
        yield place
