"""Fixtures of the tests of the object storage: a fake one, and an installation that moves to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from dicom_listener.spool.durable import Spool
from tests.integration.dicom_listener.listening import settings_for
from tests.object_storage import FakeStorage, fake_storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings


@pytest.fixture
def storage() -> Iterator[FakeStorage]:
    with fake_storage() as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, database_url: str, storage: FakeStorage) -> Settings:
    settings = settings_for(tmp_path, database_url=SecretStr(database_url), **storage.settings)
    Spool(settings.spool).prepare()
    return settings
